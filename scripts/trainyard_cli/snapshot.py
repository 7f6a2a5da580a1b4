"""The working tree as a commit, uncommitted changes included, in a repository beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from . import environments, paths
from .git import SHOWN_DIGITS, Git, describe, short
from .shell import run

BRANCH = "main"
NAME, EMAIL = "./scripts/up --gitops", "trainyard@localhost"
# The user's own configuration has no say: it may sign commits, or change the ends of lines.
SETTINGS = {
    **{f"GIT_{who}_NAME": NAME for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": EMAIL for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


class Repository(Git):
    """A bare repository; its branch main is that of ``remote``, an address that git understands."""

    def __init__(self, directory: Path, remote: str, root: Path = paths.ROOT) -> None:
        """Make the repository where it is missing, and fetch the branch; ``root`` is the working tree."""
        # `ext::`, a remote that is a command, is off by default.
        settings = ("-c", "protocol.ext.allow=always")
        super().__init__("-C", root, *settings, "--git-dir", directory, "--work-tree", root, env=SETTINGS)
        self._remote, self._root = remote, root
        if not directory.is_dir():
            directory.parent.mkdir(parents=True, exist_ok=True)
            run(["git", "init", "--quiet", "--bare", directory], env=SETTINGS)
        self.head = self.git("ls-remote", remote, f"refs/heads/{BRANCH}").partition("\t")[0]
        """The newest commit of the branch; "" while there is none."""
        if self.head:
            self.git("fetch", "--quiet", remote, BRANCH)

    def release(self, name: str, environment: Mapping[str, Any], values: Mapping[str, Any]) -> str:
        """Push the working tree and values/environments/<name>; return the commit of the working tree.

        ``environment`` gets this commit as its revision. What has not changed makes no commit.
        """
        directory = environments.directory(name)
        with self.index() as index:
            tree = self._working_tree(directory, index)
            revision = self._revision_of(tree, name) or self._commit(
                tree, f"Take over the working tree{self._described()}", self.head
            )
            files = {
                environments.file(name): {"environment": {**environment, "revision": revision}},
                environments.values_file(name): dict(values),
            }
            for file, content in files.items():
                self.put(file, yaml.safe_dump(content, sort_keys=False), index)
            released = self.git("write-tree", env=index)
        if released != self._tree_of(self.head):
            known = self.head and self._is_ancestor(revision)
            self.head = self._commit(
                released, f"Release {short(revision)} to {name}", self.head if known else revision
            )
            self.git("push", "--quiet", self._remote, f"{self.head}:refs/heads/{BRANCH}")
        return revision

    def _working_tree(self, directory: str, index: Mapping[str, str]) -> str:
        """Return the tree of all files that git does not ignore; ``directory`` as it is in the branch."""
        self.git("add", "--all", env=index)
        self.git("rm", "-r", "--cached", "--quiet", "--ignore-unmatch", directory, env=index)
        if self.head and self.git("ls-tree", self.head, directory):
            self.git("read-tree", f"--prefix={directory}/", f"{self.head}:{directory}", env=index)
        return self.git("write-tree", env=index)

    def _revision_of(self, tree: str, name: str) -> str:
        """Return a commit of the branch that holds this working tree already; "" where there is none."""
        if tree != self._tree_of(self.head):
            return ""
        present = yaml.safe_load(self.git("show", f"{self.head}:{environments.file(name)}"))
        released = str(present["environment"]["revision"])
        outside = (".", f":(exclude){environments.directory(name)}")
        differs = self.git("diff", "--name-only", released, self.head, "--", *outside)
        return self.head if differs else released

    def _is_ancestor(self, revision: str) -> bool:
        return not self.git("rev-list", "--max-count=1", revision, f"^{self.head}")

    def _tree_of(self, commit: str) -> str:
        return commit and self.git("rev-parse", f"{commit}^{{tree}}")

    def _commit(self, tree: str, message: str, parent: str) -> str:
        parents = ("-p", parent) if parent else ()
        return self.git("commit-tree", tree, *parents, "-m", message)

    def _described(self) -> str:
        """Say which commit the working tree comes from; nothing where it is no checkout."""
        described = describe(self._root, "--always", f"--abbrev={SHOWN_DIGITS}")
        return f" ({described})" if described else ""
