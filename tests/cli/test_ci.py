"""What the workflows of GitHub and GitLab run: the same commands, pinned; and two scripts of their own."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from repositories import git
from trainyard_cli import paths
from trainyard_cli.versions import VERSIONS

GITHUB = sorted(paths.ROOT.glob(".github/**/*.yaml"))
GITLAB = paths.ROOT / ".gitlab-ci.yml"
Commit = Callable[..., str]


def commands(text: str) -> set[str]:
    """The project's own commands, without comments."""
    lines = (line.partition(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    return set(re.findall(r"(?:\./scripts|\.ci)/[a-z]+(?: --[a-z]+\b)?", "\n".join(lines)))


def test_github_and_gitlab_run_the_same_commands() -> None:
    github = commands("\n".join(file.read_text() for file in GITHUB))
    assert "./scripts/test --fast" in github
    assert github == commands(GITLAB.read_text())


def test_actions_are_pinned_by_commit() -> None:
    used = [
        each for file in GITHUB for each in re.findall(r"uses: (\S+)( # v[\d.]+)?$", file.read_text(), re.M)
    ]
    assert len(used) > 5
    for action, comment in used:
        assert action.startswith("./") or (re.search("@[0-9a-f]{40}$", action) and comment), action


def test_jobs_end_and_have_few_rights() -> None:
    for file in (each for each in GITHUB if each.parent.name == "workflows"):
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {"contents": "read"}, file
        assert "concurrency" in workflow, file
        assert all("timeout-minutes" in job for job in workflow["jobs"].values()), file


def test_gitlab_runs_in_the_base_image() -> None:
    assert yaml.safe_load(GITLAB.read_text())["default"]["image"] == VERSIONS.node_base_image


# ---- .ci/commit, with a real repository


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The repository on the server, with one commit."""
    bare = tmp_path / "server/team/trainyard.git"
    bare.mkdir(parents=True)
    git(bare, "init", "--bare", "--quiet")
    git(bare, "config", "receive.advertisePushOptions", "true")
    first = tmp_path / "first"
    git(tmp_path, "clone", "--quiet", str(bare), str(first))
    (first / ".ci").mkdir()
    shutil.copy(paths.ROOT / ".ci/commit", first / ".ci/commit")
    (first / "environment.yaml").write_text("images: old\n")
    (first / "other.txt").write_text("old\n")
    git(first, "add", "-A")
    git(first, "commit", "--quiet", "-m", "First")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    return bare


@pytest.fixture
def checkout(server: Path, tmp_path: Path) -> Path:
    """The checkout of a pipeline, in which images were published."""
    git(tmp_path, "clone", "--quiet", "--branch=main", str(server), str(tmp_path / "checkout"))
    (tmp_path / "checkout/environment.yaml").write_text("images: new\n")
    (tmp_path / "checkout/other.txt").write_text("left behind by the build\n")
    return tmp_path / "checkout"


@pytest.fixture
def commit(server: Path, checkout: Path) -> Commit:
    """Runs .ci/commit as GitLab would."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CI_", "GIT"))},
        "GITLAB_CI": "true",
        "CI_COMMIT_BRANCH": "main",
        "CI_REPOSITORY_URL": "unused: its token may not push",
        "CI_SERVER_URL": str(server.parents[1]),
        "CI_PROJECT_PATH": "team/trainyard",
    }

    def run(*words: str) -> str:
        command = [checkout / ".ci/commit", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_change_becomes_a_commit_on_the_branch(commit: Commit, server: Path) -> None:
    assert "on main" in commit("Deploy the images of abc to dev", "environment.yaml")
    assert git(server, "log", "-1", "--format=%s", "main") == "Deploy the images of abc to dev"
    assert git(server, "show", "main:environment.yaml") == "images: new"
    assert git(server, "show", "main:other.txt") == "old"


def test_without_a_change_there_is_no_commit(commit: Commit, checkout: Path, server: Path) -> None:
    git(checkout, "checkout", "--", "environment.yaml")
    assert "nothing has changed" in commit("Deploy", "environment.yaml")
    assert git(server, "log", "--format=%s", "main") == "First"


def test_a_commit_of_somebody_else_meanwhile_is_kept(commit: Commit, server: Path, tmp_path: Path) -> None:
    (tmp_path / "first/third.txt").write_text("theirs\n")
    git(tmp_path / "first", "add", "third.txt")
    git(tmp_path / "first", "commit", "--quiet", "-am", "Theirs")
    git(tmp_path / "first", "push", "--quiet", "origin", "HEAD:main")
    commit("Deploy", "environment.yaml")
    assert git(server, "log", "--format=%s", "main").splitlines() == ["Deploy", "Theirs", "First"]


def test_a_branch_that_takes_no_commits_gets_a_request(commit: Commit, server: Path) -> None:
    hook = server / "hooks/update"
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo protected >&2; exit 1; }\n')
    hook.chmod(0o755)
    assert "proposed on the branch ci/deploy-it" in commit("Deploy it", "environment.yaml")
    assert git(server, "log", "--format=%s", "main") == "First"
    assert git(server, "log", "-1", "--format=%s", "ci/deploy-it") == "Deploy it"


def test_a_request_leaves_the_branch_alone(commit: Commit, server: Path) -> None:
    commit("--request", "Take the newest", "environment.yaml")
    assert git(server, "log", "--format=%s", "main") == "First"
    assert git(server, "show", "ci/take-the-newest:environment.yaml") == "images: new"


# ---- .ci/comment, with a server that keeps comments as both services do


class Service(http.server.BaseHTTPRequestHandler):
    """Keeps comments: a list of them, one added by POST, one changed by PATCH or PUT."""

    comments: list[dict[str, object]]
    token: str

    def answer(self) -> None:
        sent = (self.headers["Authorization"] or "").removeprefix("Bearer ") or self.headers["PRIVATE-TOKEN"]
        if sent != self.token:
            self.send_error(403)
            return
        length = int(self.headers["Content-Length"] or 0)
        body = json.loads(self.rfile.read(length))["body"] if length else ""
        if self.command == "POST":
            self.comments.append({"id": len(self.comments), "body": body})
        elif self.command in ("PATCH", "PUT"):
            self.comments[int(self.path.rpartition("/")[2])]["body"] = body
        content = json.dumps(self.comments).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = answer

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    handler = type("Handler", (Service,), {"comments": [{"id": 0, "body": "Looks good"}], "token": "secret"})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()


def variables(platform: str, url: str) -> dict[str, str]:
    if platform == "github":
        repository = {"GITHUB_REPOSITORY": "team/trainyard", "GITHUB_REF": "refs/pull/7/merge"}
        return {"GITHUB_API_URL": url, "GITHUB_TOKEN": "secret", **repository}
    request = {"CI_PROJECT_ID": "1", "CI_MERGE_REQUEST_IID": "7"}
    return {"GITLAB_CI": "true", "CI_API_V4_URL": url, "COMMENT_TOKEN": "secret", **request}


def comment(file: Path, environment: dict[str, str]) -> str:
    command = [paths.ROOT / ".ci/comment", file]
    clean = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=clean, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("platform", ["github", "gitlab"])
def test_the_comment_replaces_the_one_before(
    platform: str, service: tuple[str, type[Service]], tmp_path: Path
) -> None:
    url, kept = service
    file = tmp_path / "diff.md"
    for text in ("first", "second"):
        file.write_text(text)
        assert text in comment(file, variables(platform, url))
    assert len(kept.comments) == 2
    assert kept.comments[0]["body"] == "Looks good"
    assert str(kept.comments[1]["body"]).endswith("second")


@pytest.mark.parametrize("platform", ["github", "gitlab"])
@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_right_to_comment_the_log_has_the_text(
    platform: str, token: str, service: tuple[str, type[Service]], tmp_path: Path
) -> None:
    url, kept = service
    (tmp_path / "diff.md").write_text("the manifests")
    environment = variables(platform, url)
    name = "GITHUB_TOKEN" if platform == "github" else "COMMENT_TOKEN"
    environment[name] = token
    if not token:
        del environment[name]
    told = comment(tmp_path / "diff.md", environment)
    assert "the manifests" in told
    assert "not commented" in told
    assert len(kept.comments) == 1
