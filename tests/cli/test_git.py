"""Commits are made beside the working tree, and revisions are what Argo CD takes them for."""

from __future__ import annotations

from pathlib import Path

import pytest
from repositories import Checkout
from trainyard_cli.errors import CliError
from trainyard_cli.git import Repository


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    checkout = Checkout(tmp_path / "checkout")
    checkout.commit("First", {"a": "1\n", "deep/b": "1\n"})
    return checkout


def clone(checkout: Checkout, root: Path) -> Checkout:
    other = Checkout(root)
    other.git("remote", "add", "origin", str(checkout.root))
    other.git("fetch", "--quiet", "--tags", "origin")
    return other


def test_a_commit_touches_neither_the_working_tree_nor_the_index(checkout: Checkout) -> None:
    checkout.write({"a": "mine\n", "staged": "mine\n", "untracked": "mine\n"})
    checkout.git("add", "staged")
    before = checkout.git("status", "--porcelain"), checkout.git("rev-parse", "HEAD")
    commit = checkout.repository.add_commit("new", {"deep/b": "2\n", "deep/c": "3\n"}, "Second\n\nWhy")
    assert (checkout.git("status", "--porcelain"), checkout.git("rev-parse", "HEAD")) == before
    assert (checkout.root / "a").read_text() == "mine\n"
    assert checkout.git("rev-parse", "new") == commit
    assert checkout.git("log", "-1", "--format=%B", "new") == "Second\n\nWhy"
    assert checkout.git("diff", "--name-status", "main", "new").split() == ["M", "deep/b", "A", "deep/c"]
    assert checkout.repository.tree("new").read("deep/b") == "2\n"


def test_a_branch_that_is_there_is_not_moved(checkout: Checkout) -> None:
    with pytest.raises(CliError, match="there is a branch main already") as refused:
        checkout.repository.add_commit("main", {"a": "2\n"}, "Second")
    assert "--branch" in refused.value.cure


def test_the_working_tree_and_a_commit_are_read_alike(checkout: Checkout, tmp_path: Path) -> None:
    checkout.write({"a": "2\n", "new/d": "2\n"})
    working, committed = checkout.repository.tree(None), checkout.repository.tree("main")
    assert (working.read("a"), committed.read("a")) == ("2\n", "1\n")
    assert (working.read("none"), committed.read("none")) == (None, None)
    checkout.write({"deep/er/e": "2\n"})
    assert (working.directories("deep"), committed.directories("deep")) == (["er"], [])
    assert (working.directories("none"), committed.directories("none")) == ([], [])
    extracted = committed.extract(["deep"], tmp_path)
    assert (extracted / "deep/b").read_text() == "1\n"
    assert not (extracted / "a").exists()
    assert committed.extract(["deep"], tmp_path) == extracted


def test_only_whole_commits_and_tags_are_exact(checkout: Checkout) -> None:
    checkout.git("tag", "v1")
    commit = checkout.git("rev-parse", "HEAD")
    exact = checkout.repository.is_exact
    assert exact(commit) and exact("v1")
    assert not exact("main") and not exact(commit[:12]) and not exact("HEAD") and not exact("v2")


def test_a_branch_is_where_the_remote_has_it(checkout: Checkout, tmp_path: Path) -> None:
    other = clone(checkout, tmp_path / "other")
    theirs = checkout.git("rev-parse", "main")
    mine = other.commit("Mine")
    repository = other.repository
    assert repository.commit("main") == mine
    assert repository.pushed_commit("main") == theirs
    assert repository.is_pushed(theirs) and not repository.is_pushed(mine)


def test_a_revision_that_only_the_remote_has_is_found(checkout: Checkout, tmp_path: Path) -> None:
    checkout.git("branch", "theirs")
    assert clone(checkout, tmp_path / "other").repository.commit("theirs") == checkout.git(
        "rev-parse", "main"
    )


def test_an_unknown_revision_names_the_cure(checkout: Checkout) -> None:
    with pytest.raises(CliError, match="revision nowhere is not in this clone") as refused:
        checkout.repository.tree("nowhere")
    assert "git fetch REMOTE nowhere" in refused.value.cure


def test_a_directory_without_git_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="is not a git checkout"):
        Repository(tmp_path)
