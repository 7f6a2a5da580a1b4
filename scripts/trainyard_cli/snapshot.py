"""The working tree as a commit, uncommitted changes included, in a repository beside the checkout."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from . import paths
from .shell import run

BRANCH = "main"
ENVIRONMENT_FILE = "environment.yaml"
VALUES_FILE = "values.yaml"
NAME, EMAIL = "./scripts/up --gitops", "trainyard@localhost"
# The user's own configuration has no say: it may sign commits, or change the ends of lines.
SETTINGS = {
    **{f"GIT_{who}_NAME": NAME for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": EMAIL for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


class Repository:
    """A bare repository; its branch main is that of ``remote``, an address that git understands."""

    def __init__(self, directory: Path, remote: str, root: Path = paths.ROOT) -> None:
        """Make the repository where it is missing, and fetch the branch; ``root`` is the working tree."""
        self._directory, self._remote, self._root = directory, remote, root
        if not directory.is_dir():
            directory.parent.mkdir(parents=True, exist_ok=True)
            run(["git", "init", "--quiet", "--bare", directory], env=SETTINGS)
        self.head = self._git("ls-remote", remote, f"refs/heads/{BRANCH}").partition("\t")[0]
        """The newest commit of the branch; "" while there is none."""
        if self.head:
            self._git("fetch", "--quiet", remote, BRANCH)

    def release(self, name: str, environment: Mapping[str, Any], values: Mapping[str, Any]) -> str:
        """Push the working tree and values/environments/<name>; return the commit of the working tree.

        ``environment`` gets this commit as its revision. What has not changed makes no commit.
        """
        directory = f"values/environments/{name}"
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            tree = self._working_tree(directory, index)
            revision = self._revision_of(tree, directory) or self._commit(
                tree, f"Take over the working tree{self._described()}", self.head
            )
            files = {
                ENVIRONMENT_FILE: {"environment": {**environment, "revision": revision}},
                VALUES_FILE: dict(values),
            }
            for file, content in files.items():
                self._put(f"{directory}/{file}", yaml.safe_dump(content, sort_keys=False), index)
            released = self._git("write-tree", env=index).strip()
        if released != self._tree_of(self.head):
            known = self.head and self._is_ancestor(revision)
            self.head = self._commit(
                released, f"Release {revision[:12]} to {name}", self.head if known else revision
            )
            self._git("push", "--quiet", self._remote, f"{self.head}:refs/heads/{BRANCH}")
        return revision

    def _working_tree(self, directory: str, index: Mapping[str, str]) -> str:
        """Return the tree of all files that git does not ignore; ``directory`` as it is in the branch."""
        self._git("add", "--all", env=index)
        self._git("rm", "-r", "--cached", "--quiet", "--ignore-unmatch", directory, env=index)
        if self.head and self._git("ls-tree", self.head, directory):
            self._git("read-tree", f"--prefix={directory}/", f"{self.head}:{directory}", env=index)
        return self._git("write-tree", env=index).strip()

    def _revision_of(self, tree: str, directory: str) -> str:
        """Return a commit of the branch that holds this working tree already; "" where there is none."""
        if tree != self._tree_of(self.head):
            return ""
        present = yaml.safe_load(self._git("show", f"{self.head}:{directory}/{ENVIRONMENT_FILE}"))
        released = str(present["environment"]["revision"])
        outside = (".", f":(exclude){directory}")
        differs = self._git("diff", "--name-only", released, self.head, "--", *outside)
        return self.head if differs else released

    def _is_ancestor(self, revision: str) -> bool:
        return not self._git("rev-list", "--max-count=1", revision, f"^{self.head}")

    def _tree_of(self, commit: str) -> str:
        return commit and self._git("rev-parse", f"{commit}^{{tree}}").strip()

    def _put(self, file: str, text: str, index: Mapping[str, str]) -> None:
        blob = self._git("hash-object", "-w", "--stdin", input=text).strip()
        self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{file}", env=index)

    def _commit(self, tree: str, message: str, parent: str) -> str:
        parents = ("-p", parent) if parent else ()
        return self._git("commit-tree", tree, *parents, "-m", message).strip()

    def _described(self) -> str:
        """Say which commit the working tree comes from; nothing where it is no checkout."""
        described = run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"], cwd=self._root, check=False
        )
        return f" ({described.stdout.strip()})" if described.returncode == 0 else ""

    def _git(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, input: str | None = None
    ) -> str:
        # `ext::`, a remote that is a command, is off by default.
        command: list[str | Path] = ["git", "-c", "protocol.ext.allow=always", "--git-dir", self._directory]
        command += ["--work-tree", self._root, *arguments]
        return run(command, cwd=self._root, env={**SETTINGS, **(env or {})}, input=input).stdout
