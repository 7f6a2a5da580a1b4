"""The working tree becomes a commit of a repository of our own, by git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from repositories import git
from trainyard_cli.snapshot import Repository

NAME = "kind"
ENVIRONMENT = {"namespace": "trainyard", "images": {"mlflow": {"image": {"tag": "1"}}}}
FILE = f"values/environments/{NAME}/environment.yaml"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "values").mkdir(parents=True)
    (root / "chart.yaml").write_text("a: 1\n")
    (root / ".gitignore").write_text("*.log\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    return tmp_path / "remote.git"


@pytest.fixture
def repository(tmp_path: Path, checkout: Path, remote: Path):
    def _repository() -> Repository:
        return Repository(tmp_path / "own.git", str(remote), checkout)

    return _repository


def environment(remote: Path) -> dict:
    return yaml.safe_load(git(remote, "show", f"main:{FILE}"))["environment"]


def test_the_commit_holds_the_working_tree_and_nothing_of_the_checkout_changes(
    repository, checkout, remote
) -> None:
    (checkout / "chart.yaml").write_text("a: 2\n")
    (checkout / "new.yaml").write_text("b: 1\n")
    (checkout / "build.log").write_text("ignored\n")
    before = (
        git(checkout, "status", "--porcelain"),
        git(checkout, "for-each-ref"),
        git(checkout, "count-objects"),
    )
    revision = repository().release(NAME, ENVIRONMENT, {"a": 1})
    after = (
        git(checkout, "status", "--porcelain"),
        git(checkout, "for-each-ref"),
        git(checkout, "count-objects"),
    )
    assert after == before
    names = git(remote, "ls-tree", "-r", "--name-only", revision).splitlines()
    assert names == [".gitignore", "chart.yaml", "new.yaml"]
    assert git(remote, "show", f"{revision}:chart.yaml") == "a: 2"
    assert environment(remote) == {**ENVIRONMENT, "revision": revision}
    assert git(remote, "show", f"main:values/environments/{NAME}/values.yaml") == "a: 1"
    assert git(remote, "rev-parse", "main~1") == revision, (
        "a git revert of the release is all that a roll-back takes"
    )


def test_the_same_again_makes_no_commit(repository, remote) -> None:
    revision = repository().release(NAME, ENVIRONMENT, {})
    head = git(remote, "rev-parse", "main")
    assert repository().release(NAME, ENVIRONMENT, {}) == revision
    assert git(remote, "rev-parse", "main") == head


def test_other_values_alone_leave_the_revision(repository, remote) -> None:
    revision = repository().release(NAME, ENVIRONMENT, {})
    first = git(remote, "rev-parse", "main")
    assert repository().release(NAME, ENVIRONMENT, {"a": 2}) == revision
    assert git(remote, "rev-parse", "main~1") == first


def test_a_changed_file_is_a_new_revision(repository, checkout, remote) -> None:
    first = repository().release(NAME, ENVIRONMENT, {})
    (checkout / "chart.yaml").unlink()
    second = repository().release(NAME, ENVIRONMENT, {})
    assert second != first
    assert "chart.yaml" not in git(remote, "ls-tree", "-r", "--name-only", second)
    assert git(remote, "rev-list", "--count", "main") == "4"


def test_after_a_revert_the_working_tree_is_released_again(repository, checkout, remote, tmp_path) -> None:
    repository().release(NAME, ENVIRONMENT, {})
    (checkout / "chart.yaml").write_text("a: 2\n")
    second = repository().release(NAME, ENVIRONMENT, {})
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    git(clone, "revert", "--no-edit", "HEAD")
    git(clone, "push", "--quiet", "origin", "main")
    assert environment(remote)["revision"] != second
    third = repository().release(NAME, ENVIRONMENT, {})
    assert git(remote, "show", f"{third}:chart.yaml") == "a: 2"
    assert environment(remote)["revision"] == third


def test_an_environment_in_the_checkout_gives_way_to_that_of_the_branch(repository, checkout, remote) -> None:
    own = checkout / FILE
    own.parent.mkdir(parents=True)
    own.write_text("environment: {namespace: other}\n")
    repository().release(NAME, ENVIRONMENT, {})
    assert environment(remote)["namespace"] == "trainyard"


def test_it_works_where_the_working_tree_is_no_checkout(repository, checkout, remote) -> None:
    subprocess.run(["rm", "-rf", checkout / ".git"], check=True)
    revision = repository().release(NAME, ENVIRONMENT, {})
    assert git(remote, "show", f"{revision}:chart.yaml") == "a: 1"
