"""A git repository whose commits the real DAG publisher publishes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dag_publisher import Publisher


class PublishedRepository:
    """A repository in `directory`, and what is published of its folder `dags`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "repository"
        self.published = directory / "published"
        self._git("init", "--quiet", "--initial-branch=main", str(self.path))
        self.publisher = Publisher(
            repo=f"file://{self.path}",
            ref="main",
            subdir="dags",
            published=self.published,
            credentials=directory,
            depth=1,
            timeout=20,
            keep_days=30,
            clone=directory / "clone",
        )

    def push(self, **files: str) -> str:
        """Commit files below `dags` (`__` stands for a slash) and publish the commit; return it."""
        for name, content in files.items():
            file = self.path / "dags" / name.replace("__", "/")
            file = file.with_suffix(".yaml" if "models" in file.parts else ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        where = ("-C", str(self.path), "-c", "user.name=t", "-c", "user.email=t@example.com")
        self._git(*where, "add", "--all")
        self._git(*where, "commit", "--quiet", "--message=x")
        assert self.publisher.publish()
        return self._git(*where, "rev-parse", "HEAD")

    @staticmethod
    def _git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()
