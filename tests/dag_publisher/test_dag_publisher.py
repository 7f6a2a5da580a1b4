"""The DAG publisher against real repositories: what it writes, keeps, removes and reports."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dag_publisher import Publisher, _cause


class Repository:
    """A repository with one branch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"file://{path}"
        self.git("init", "--quiet", "--initial-branch=main", str(path), inside=False)

    def git(self, *arguments: str, inside: bool = True) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        where = ["-C", str(self.path)] if inside else []
        return subprocess.run(
            ["git", *who, *where, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, **files: str) -> str:
        for name, content in files.items():
            file = self.path / "dags" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def publisher(repository: Repository, tmp_path: Path) -> Callable[..., Publisher]:
    """Makes a publisher; each has a clone of its own, like each pod."""
    made = iter(range(100))

    def _publisher(**options: Any) -> Publisher:
        return Publisher(
            **{
                "repo": repository.url,
                "ref": "main",
                "subdir": "dags",
                "published": tmp_path / "published",
                "credentials": tmp_path / "credentials",
                "depth": 1,
                "timeout": 20,
                "keep_days": 1,
                "clone": tmp_path / f"clone-{next(made)}",
                **options,
            }
        )

    return _publisher


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "published"


def state(published: Path) -> dict[str, Any]:
    return json.loads((published / "state.json").read_text())


def test_each_commit_is_a_directory_with_the_subdir_alone(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    (repository.path / "README").write_text("not a DAG")
    first = repository.commit(a="1")
    publishing = publisher()
    assert publishing.publish()
    second = repository.commit(a="2", b="1")
    assert publishing.publish()
    assert {one.name for one in (published / "versions").iterdir()} == {first, second}
    assert (published / f"versions/{first}/dags/a.py").read_text() == "1"
    assert (published / f"versions/{second}/dags/a.py").read_text() == "2"
    assert [one.name for one in (published / f"versions/{second}").iterdir()] == ["dags"]
    assert state(published)["version"] == second and state(published)["error"] == ""
    assert not [one.name for one in published.iterdir() if one.name.startswith(".")]


def test_the_whole_repository_where_no_subdir_is_named(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    commit = repository.commit(a="1")
    assert publisher(subdir="").publish()
    assert (published / f"versions/{commit}/dags/a.py").is_file()
    assert not (published / f"versions/{commit}/.git").exists()


@pytest.mark.parametrize("ref", ["v1", "HEAD", None])
def test_tags_and_commits_are_followed_as_well(
    repository: Repository, publisher: Callable[..., Publisher], published: Path, ref: str | None
) -> None:
    commit = repository.commit(a="1")
    repository.git("tag", "--annotate", "--message=x", "v1")
    repository.git("config", "uploadpack.allowReachableSHA1InWant", "true")
    assert publisher(ref=ref or commit).publish()
    assert state(published)["version"] == commit


def test_history_that_is_rewritten_is_followed(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    repository.commit(a="1")
    publishing = publisher()
    assert publishing.publish()
    repository.git("commit", "--quiet", "--amend", "--message=y")
    assert publishing.publish()
    assert state(published)["version"] == repository.git("rev-parse", "HEAD")


def test_an_unreachable_repository_leaves_what_is_published(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    commit = repository.commit(a="1")
    publishing = publisher()
    assert publishing.publish()
    before = state(published)
    repository.path.rename(repository.path.with_name("gone"))
    assert not publishing.publish()
    after = state(published)
    assert after["version"] == commit and after["succeeded"] == before["succeeded"]
    assert "does not appear to be a git repository" in after["error"]
    # A new process, as after a restart, knows what there is, and goes on.
    assert not publisher().publish()
    assert state(published)["version"] == commit
    repository.path.with_name("gone").rename(repository.path)
    assert publishing.publish()
    assert state(published)["error"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ref": "nowhere"}, "couldn't find remote ref nowhere"),
        ({"subdir": "missing"}, "missing"),
        ({"repo": "ssh://git@127.0.0.1:1/x"}, "Connection refused"),
        ({"repo": "http://127.0.0.1:1/x"}, "127.0.0.1"),
        ({"repo": "ext::sh -c true"}, "transport 'ext' not allowed"),
    ],
)
def test_what_is_wrong_is_reported(
    repository: Repository, publisher: Callable[..., Publisher], published: Path, options: Any, message: str
) -> None:
    repository.commit(a="1")
    assert not publisher(**options).publish()
    assert state(published)["version"] is None
    assert message in state(published)["error"]


def test_a_replaced_commit_stays_for_its_days(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    first = repository.commit(a="1")
    publishing = publisher()
    publishing.publish()
    second = repository.commit(a="2")
    publishing.publish()
    mark = published / "replaced" / first
    os.utime(mark, (time.time() - 23 * 3600,) * 2)
    publishing.publish()
    assert (published / "versions" / first).is_dir()
    os.utime(mark, (time.time() - 25 * 3600,) * 2)
    publishing.publish()
    assert [one.name for one in (published / "versions").iterdir()] == [second]


def test_a_commit_that_comes_back_is_not_removed(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    first = repository.commit(a="1")
    publishing = publisher(keep_days=0)
    publishing.publish()
    repository.commit(a="2")
    publisher(keep_days=1).publish()
    repository.git("reset", "--quiet", "--hard", first)
    publishing = publisher(keep_days=0)
    publishing.publish()
    publishing.publish()
    assert (published / f"versions/{first}/dags/a.py").read_text() == "1"


def test_what_an_interrupted_process_left_is_removed(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    repository.commit(a="1")
    (published / ".new-x/files").mkdir(parents=True)
    assert publisher().publish()
    assert not (published / ".new-x").exists()


def test_another_subdir_is_published_anew(
    repository: Repository, publisher: Callable[..., Publisher], published: Path
) -> None:
    commit = repository.commit(a="1")
    (repository.path / "README").write_text("x")
    publisher().publish()
    publisher(subdir="").publish()
    assert (published / f"versions/{commit}/dags/a.py").is_file()
    assert state(published)["version"] == commit


@pytest.fixture
def basic_auth() -> Iterator[tuple[str, list[str | None]]]:
    """A web server that asks for a password: its address, and what it was told."""
    told: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.git", told
    server.shutdown()


def test_the_token_is_read_anew_and_never_told(
    publisher: Callable[..., Publisher], published: Path, tmp_path: Path, basic_auth: Any
) -> None:
    url, told = basic_auth
    directory = tmp_path / "credentials/credentials"
    directory.mkdir(parents=True)
    publishing = publisher(repo=url)
    for token in ("c2VjcmV0MQ", "c2VjcmV0Mg"):
        (directory / "GITSYNC_USERNAME").write_text("user")
        (directory / "GITSYNC_PASSWORD").write_text(token)
        assert not publishing.publish()
        assert "Authentication failed" in state(published)["error"]
        assert token not in (published / "state.json").read_text()
    assert len({one for one in told if one}) == 2


def test_the_cause_of_a_long_message_is_its_end() -> None:
    output = """@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key for h has changed and you have requested strict checking.
Host key verification failed.
fatal: Could not read from remote repository.

Please make sure you have the correct access rights
and the repository exists."""
    assert _cause(output).endswith(
        "Host key for h has changed and you have requested strict checking. | Host key verification failed."
    )
