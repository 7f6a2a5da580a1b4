"""Reads a git repository, and adds commits to it without touching its working tree and its index."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import CliError
from .shell import run

COMMIT = re.compile(r"[0-9a-f]{40}")
SHOWN_DIGITS = 12


def short(revision: str) -> str:
    """Return a commit by its first digits; a branch or a tag as it is."""
    return revision[:SHOWN_DIGITS] if COMMIT.fullmatch(revision) else revision


def describe(root: Path, *options: str) -> str:
    """Return what git describe says of a checkout, marked where files differ from it; "" outside git."""
    try:
        return run(["git", "describe", "--dirty", *options], cwd=root, check=False).stdout.strip()
    except CliError:  # git is not installed
        return ""


def last_change(root: Path, files: Iterable[str]) -> str:
    """Return the last commit that changed files of a checkout, marked where they differ; "" outside git."""
    try:
        commit = run(["git", "log", "-1", "--format=%H", "--", *files], cwd=root, check=False).stdout.strip()
        status = run(["git", "status", "--porcelain", "--", *files], cwd=root, check=False).stdout
    except CliError:  # git is not installed
        return ""
    return f"{commit}-dirty" if commit and status else commit


class Tree(Protocol):
    """The files of a revision, or of the working tree. Paths are relative to the repository."""

    @property
    def name(self) -> str:
        """How people call it."""

    def read(self, path: str) -> str | None:
        """Return a file's text, or None where there is no such file."""

    def directories(self, path: str) -> list[str]:
        """Return the names of the directories in a directory, sorted; none where it does not exist."""

    def extract(self, paths: list[str], scratch: Path) -> Path:
        """Return a directory that holds these paths, made in ``scratch`` where it is not there already."""


@dataclass(frozen=True)
class WorkingTree:
    """The files as they lie in the checkout, committed or not."""

    root: Path

    @property
    def name(self) -> str:
        """How people call it."""
        return "the working tree"

    def read(self, path: str) -> str | None:
        """Return a file's text, or None where there is no such file."""
        file = self.root / path
        return file.read_text() if file.is_file() else None

    def directories(self, path: str) -> list[str]:
        """Return the names of the directories in a directory, sorted; none where it does not exist."""
        directory = self.root / path
        return (
            sorted(each.name for each in directory.iterdir() if each.is_dir()) if directory.is_dir() else []
        )

    def extract(self, paths: list[str], scratch: Path) -> Path:
        """Return the checkout itself."""
        return self.root


@dataclass(frozen=True)
class Commit:
    """The files of a commit."""

    repository: Git
    sha: str
    name: str

    def read(self, path: str) -> str | None:
        """Return a file's text, or None where there is no such file."""
        done = self.repository.try_git("show", f"{self.sha}:{path}")
        return done.stdout if done.returncode == 0 else None

    def directories(self, path: str) -> list[str]:
        """Return the names of the directories in a directory, sorted; none where it does not exist."""
        done = self.repository.try_git("ls-tree", "-d", "--name-only", f"{self.sha}:{path}")
        return sorted(done.stdout.split()) if done.returncode == 0 else []

    def extract(self, paths: list[str], scratch: Path) -> Path:
        """Return a directory that holds these paths, made in ``scratch`` where it is not there already."""
        directory = scratch / self.sha
        if not directory.is_dir():
            archive = scratch / f"{self.sha}.tar"
            self.repository.git("archive", f"--output={archive}", self.sha, "--", *paths)
            with tarfile.open(archive) as tar:
                tar.extractall(directory, filter="data")
            archive.unlink()
        return directory


class Git:
    """Runs git on one repository, and writes its objects without its index."""

    def __init__(self, *options: str | Path, env: Mapping[str, str] | None = None) -> None:
        self._options = options
        self._env = dict(env or {})

    def git(self, *words: str, input: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run git in the repository and return what it prints, without the last line's end."""
        return self._run(words, input=input, env=env).stdout.rstrip("\n")

    def try_git(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run git and return its result, whatever its exit code."""
        return self._run(words, check=False)

    @contextmanager
    def index(self) -> Iterator[dict[str, str]]:
        """Give the environment of an index for one commit, empty at first."""
        with tempfile.TemporaryDirectory() as scratch:
            yield {"GIT_INDEX_FILE": str(Path(scratch) / "index")}

    def put(self, path: str, text: str, index: Mapping[str, str]) -> None:
        """Write a file into the index."""
        blob = self.git("hash-object", "-w", "--stdin", f"--path={path}", input=text)
        self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=index)

    def _run(
        self,
        words: tuple[str, ...],
        *,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = ["git", *self._options, *words]
        return run(command, check=check, input=input, env={**self._env, **(env or {})})


class Repository(Git):
    """One checkout."""

    def __init__(self, root: Path) -> None:
        super().__init__("-C", root)
        self.root = root
        if self.try_git("rev-parse", "--git-dir").returncode:
            raise CliError(f"{root} is not a git checkout", "clone the repository with git")

    # ---- reading

    def tree(self, revision: str | None) -> Tree:
        """Return the files of a revision; without one those of the working tree."""
        if revision is None:
            return WorkingTree(self.root)
        return Commit(self, self.commit(revision), revision)

    def commit(self, revision: str) -> str:
        """Return the commit that a revision names here; a branch is looked for here, then at the remotes."""
        found = self._found(revision) or self._at_remotes(revision)
        if found:
            return found
        cure = f"correct it, or fetch it: git fetch {(self.remotes() or ['REMOTE'])[0]} {revision}"
        raise CliError(f"revision {revision} is not in this clone", cure)

    def pushed_commit(self, revision: str) -> str:
        """Return the commit that a revision names where Argo CD sees it: at the remote, if there is one."""
        return self._at_remotes(revision) or self.commit(revision)

    def _at_remotes(self, branch: str) -> str:
        """Return the commit of a remote's branch, "" where no remote has it."""
        found = (self._found(f"refs/remotes/{remote}/{branch}") for remote in self.remotes())
        return next(filter(None, found), "")

    def _found(self, name: str) -> str:
        """Return the commit of exactly this name, "" where there is none."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return self.try_git(*words).stdout.strip()

    def is_exact(self, revision: str) -> bool:
        """Tell whether a revision stays what it is: a whole commit hash, or a tag."""
        return bool(COMMIT.fullmatch(revision)) or self._is_reference(f"refs/tags/{revision}")

    def is_pushed(self, commit: str) -> bool:
        """Tell whether a remote has the commit, as far as this clone knows; true where there is no remote."""
        return not self.remotes() or bool(self.git("branch", "--remotes", "--contains", commit))

    def remotes(self) -> list[str]:
        """Return the names of the remotes, origin first."""
        return sorted(self.git("remote").split(), key=lambda name: (name != "origin", name))

    def subjects(self, old: str, new: str) -> list[str]:
        """Return hash and subject of the commits that ``new`` has and ``old`` has not, the newest first."""
        return self.git("log", "--format=%h %s", f"{old}..{new}").splitlines()

    def changed(self, *paths: str) -> list[str]:
        """Return what differs from HEAD under these paths, in the words of git status."""
        return self.git("status", "--porcelain", "--", *paths).splitlines()

    def _is_reference(self, name: str) -> bool:
        return self.try_git("show-ref", "--verify", "--quiet", name).returncode == 0

    # ---- writing

    def add_commit(self, branch: str, files: Mapping[str, str], message: str) -> str:
        """Make a branch at HEAD with one more commit, which writes these files; return the commit.

        Neither the working tree nor the index is touched.
        """
        if self._is_reference(f"refs/heads/{branch}"):
            cure = f"delete it (git branch --delete --force {branch}), or name another one with --branch"
            raise CliError(f"there is a branch {branch} already", cure)
        with self.index() as index:
            self.git("read-tree", "HEAD", env=index)
            for path, text in files.items():
                self.put(path, text, index)
            tree = self.git("write-tree", env=index)
        signed = (
            ["-S"] if self.try_git("config", "--type=bool", "commit.gpgSign").stdout.strip() == "true" else []
        )
        commit = self.git("commit-tree", *signed, "-p", "HEAD", "-F", "-", tree, input=message)
        self.git("branch", "--no-track", branch, commit)
        return commit
