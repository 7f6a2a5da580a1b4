"""Teams: the account of each writes the experiments that have the names of its DAGs, and reads all else."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ACCOUNTS, Server, prepare, running

API, AJAX, PROXY = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow", "/api/2.0/mlflow-artifacts"
V3 = "/api/3.0/mlflow"
VISION, TEXT, REST = "trainer-vision", "trainer-text", "trainer"
TEAMS = {REST: [], VISION: ["vision_*", "segment"], TEXT: ["text_training"]}
WITH_TEAMS = {**ACCOUNTS, **dict.fromkeys(TEAMS, "team-trainer")}


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a platform with two teams."""
    directory = tmp_path_factory.mktemp("mlflow-of-teams")
    prepare(directory, WITH_TEAMS)
    with running(directory, TEAMS=json.dumps(TEAMS)) as server:
        yield server


@dataclass(frozen=True)
class Made:
    """An experiment, and one of each that lies below it."""

    name: str
    experiment: str
    run: str
    model: str
    trace: str
    artifacts: str  # where the run's are, below the proxy


def made_by(server: Server, account: str, name: str, writer: str | None = None) -> Made:
    """Let an account make an experiment of this name, and a writer what is below it."""
    with server.as_account(account) as client:
        experiment = created(client.post(f"{API}/experiments/create", json={"name": name}))["experiment_id"]
    with server.as_account(writer or account) as client:
        run = created(client.post(f"{API}/runs/create", json={"experiment_id": experiment}))["run"]["info"]
        model = created(client.post(f"{API}/logged-models", json={"experiment_id": experiment}))["model"]
        trace = f"tr-{uuid.uuid4().hex}"
        created(client.post(f"{V3}/traces", json=trace_of(experiment, trace)))
    artifacts = run["artifact_uri"].removeprefix("mlflow-artifacts:").lstrip("/")
    return Made(name, experiment, run["run_id"], model["info"]["model_id"], trace, artifacts)


def created(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


def trace_of(experiment: str, trace: str) -> dict[str, Any]:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    times = {"request_time": "2026-01-01T00:00:00Z", "execution_duration": "1s", "state": "OK"}
    return {"trace": {"trace_info": {"trace_id": trace, "trace_location": place, **times}}}


def some(name: str) -> str:
    return f"{name}{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def things(divided: Server) -> dict[str, Made]:
    """What is each account's."""
    return {
        VISION: made_by(divided, VISION, some("vision_")),
        TEXT: made_by(divided, TEXT, "text_training"),
        REST: made_by(divided, REST, some("churn_")),
    }


def writes(made: Made) -> dict[str, tuple[str, str, Any]]:
    """Requests that write below an experiment: what it does -> method, path, body."""
    run, experiment, now = {"run_id": made.run}, {"experiment_id": made.experiment}, int(time.time() * 1000)
    metric = {"key": "loss", "value": 1, "timestamp": now, "step": 0}
    tag = {"key": "mine", "value": "yes"}
    runs, model, model_id = f"{API}/runs", f"{API}/logged-models/{made.model}", {"model_id": made.model}
    outputs = {**run, "models": [{**model_id, "step": 0}]}
    dataset = {"name": some("set"), "experiment_ids": [made.experiment]}
    of_model = f"{made.experiment}/models/{made.model}/artifacts"
    trace = trace_of(made.experiment, f"tr-{uuid.uuid4().hex}")
    return {
        "create a run": ("POST", f"{runs}/create", experiment),
        "create a run by the page": ("POST", f"{AJAX}/runs/create", experiment),
        "log a metric": ("POST", f"{runs}/log-metric", {**run, **metric}),
        "log a metric by uuid": ("POST", f"{runs}/log-metric", {"run_uuid": made.run, **metric}),
        "log a batch": ("POST", f"{runs}/log-batch", {**run, "metrics": [metric]}),
        "log a parameter": ("POST", f"{runs}/log-parameter", {**run, **tag}),
        "tag a run": ("POST", f"{runs}/set-tag", {**run, **tag}),
        "update a run": ("POST", f"{runs}/update", {**run, "status": "RUNNING"}),
        "log inputs": ("POST", f"{runs}/log-inputs", {**run, "datasets": []}),
        "log a model's outputs": ("POST", f"{runs}/outputs", outputs),
        "tag an experiment": ("POST", f"{API}/experiments/set-experiment-tag", {**experiment, **tag}),
        "create a logged model": ("POST", f"{API}/logged-models", experiment),
        "tag a logged model": ("PATCH", f"{model}/tags", {"tags": [tag]}),
        "log parameters of a model": ("POST", f"{model}/params", {**model_id, "params": [tag]}),
        "finish a logged model": ("PATCH", model, {**model_id, "status": 2}),
        "upload an artifact": ("PUT", f"{PROXY}/artifacts/{made.artifacts}/a.txt", b"text"),
        "upload a model's artifact": ("PUT", f"{PROXY}/artifacts/{of_model}/a.txt", b"text"),
        "upload by the page": ("POST", f"{AJAX}/upload-artifact?run_uuid={made.run}&path=b.txt", b"text"),
        "start a trace": ("POST", f"{V3}/traces", trace),
        "tag a trace": ("PATCH", f"{V3}/traces/{made.trace}/tags", tag),
        "make a dataset": ("POST", f"{V3}/datasets/create", dataset),
    }


def deletions(made: Made) -> dict[str, tuple[str, str, Any]]:
    return {
        "delete an experiment": ("POST", f"{API}/experiments/delete", {"experiment_id": made.experiment}),
        "restore an experiment": ("POST", f"{API}/experiments/restore", {"experiment_id": made.experiment}),
        "delete a run": ("POST", f"{API}/runs/delete", {"run_id": made.run}),
        "delete a logged model": ("DELETE", f"{API}/logged-models/{made.model}", None),
        "delete artifacts": ("DELETE", f"{PROXY}/artifacts/{made.artifacts}", None),
    }


def sent(client: httpx.Client, request: tuple[str, str, Any]) -> httpx.Response:
    method, path, body = request
    content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    return client.request(method, path, **content)


@pytest.mark.parametrize("account", sorted(TEAMS))
def test_an_account_writes_its_own(divided: Server, things: dict[str, Made], account: str) -> None:
    with divided.as_account(account) as client:
        answers = {what: sent(client, one) for what, one in writes(things[account]).items()}
    assert {what: one.text for what, one in answers.items() if not one.is_success} == {}


@pytest.mark.parametrize("account", sorted(TEAMS))
def test_an_account_writes_nothing_of_another_s(
    divided: Server, things: dict[str, Made], account: str
) -> None:
    with divided.as_account(account) as client:
        for owner in things.keys() - {account}:
            requests = writes(things[owner]) | deletions(things[owner])
            answers = {what: sent(client, one).status_code for what, one in requests.items()}
            assert answers == dict.fromkeys(requests, 403), owner


@pytest.mark.parametrize("account", sorted(TEAMS))
def test_an_account_deletes_nothing_of_its_own(
    divided: Server, things: dict[str, Made], account: str
) -> None:
    requests = deletions(things[account])
    with divided.as_account(account) as client:
        assert {what: sent(client, one).status_code for what, one in requests.items()} == dict.fromkeys(
            requests, 403
        )


@pytest.mark.parametrize("account", [*sorted(TEAMS), "serving"])
def test_everybody_reads_everything(divided: Server, things: dict[str, Made], account: str) -> None:
    with divided.as_account(account) as client:
        for made in things.values():
            name, run = {"experiment_name": made.name}, {"run_id": made.run}
            assert client.get(f"{API}/experiments/get-by-name", params=name).status_code == 200
            assert client.get(f"{API}/runs/get", params=run).status_code == 200
            assert client.get(f"{API}/logged-models/{made.model}").status_code == 200
            found = created(client.post(f"{API}/runs/search", json={"experiment_ids": [made.experiment]}))
            assert made.run in {each["info"]["run_id"] for each in found["runs"]}


@pytest.mark.parametrize("account", ["admin", "promoter"])
def test_the_platform_s_accounts_write_everything(
    divided: Server, things: dict[str, Made], account: str
) -> None:
    with divided.as_account(account) as client:
        for made in things.values():
            requests = {what: one for what, one in writes(made).items() if "model" not in what}
            answers = {what: sent(client, one) for what, one in requests.items()}
            assert {what: one.text for what, one in answers.items() if not one.is_success} == {}


@pytest.mark.parametrize(
    ("account", "name", "status"),
    [
        (VISION, "segment", 200),
        (VISION, "segment_2", 403),
        (VISION, "text_training", 403),
        (VISION, "Vision_", 403),
        (VISION, "churn", 403),
        (TEXT, "vision_x", 403),
        (REST, "vision_x", 403),
        (REST, "segment_2", 200),
    ],
)
def test_an_experiment_is_made_by_whose_name_it_has(
    divided: Server, things: dict[str, Made], account: str, name: str, status: int
) -> None:
    with divided.as_account(account) as client:
        for path in (API, AJAX):
            answer = client.post(f"{path}/experiments/create", json={"name": name})
            if status == 200:
                assert answer.status_code == 200 or "already exists" in answer.text
            else:
                assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
                assert f"{account} makes no experiment {name}" in answer.text
                assert "MLFLOW_EXPERIMENT_NAME" in answer.text


def test_who_made_an_experiment_counts_for_nothing(divided: Server) -> None:
    made_by(divided, "promoter", some("vision_"), writer=VISION)
    made = made_by(divided, "admin", some("churn_"), writer=REST)
    renamed = {"experiment_id": made.experiment, "new_name": some("vision_")}
    with divided.as_account("admin") as admin:
        created(admin.post(f"{API}/experiments/update", json=renamed))
    body = {"run_id": made.run, "key": "a", "value": "b"}
    for account, status in ((REST, 403), (VISION, 200), (TEXT, 403)):
        with divided.as_account(account) as client:
            assert client.post(f"{API}/runs/set-tag", json=body).status_code == status


def test_an_account_s_own_experiment_stays_its_own(divided: Server, things: dict[str, Made]) -> None:
    """It can be given to nobody else, by a name or by a right."""
    made = things[VISION]
    with divided.as_account(VISION) as client:
        for name in (some("vision_"), some("text_"), some("churn_")):
            body = {"experiment_id": made.experiment, "new_name": name}
            assert client.post(f"{API}/experiments/update", json=body).status_code == 403
        right = {"resource_type": "experiment", "resource_id": made.experiment, "permission": "EDIT"}
        given = client.post(f"{API}/users/permissions/grant", json={"username": TEXT, **right})
        assert given.status_code == 403


def test_artifacts_are_where_mlflow_puts_them(divided: Server, things: dict[str, Made]) -> None:
    elsewhere = f"mlflow-artifacts:/{things[TEXT].artifacts}"
    with divided.as_account(VISION) as client:
        body = {"name": some("vision_"), "artifact_location": elsewhere}
        assert client.post(f"{API}/experiments/create", json=body).status_code == 403
        body = {"name": some("vision_"), "artifactLocation": elsewhere}
        assert client.post(f"{API}/experiments/create", json=body).status_code == 403
        for path in (
            f"{things[VISION].experiment}/../{things[TEXT].artifacts}/c.txt",
            f"{things[VISION].experiment}/%252e%252e/{things[TEXT].artifacts}/c.txt",
            f"a/../{things[TEXT].artifacts}/c.txt",
            "elsewhere/c.txt",
        ):
            answer = client.put(f"{PROXY}/artifacts/{path}", content=b"text")
            assert not answer.is_success, path
    with divided.as_account(TEXT) as client:
        found = client.get(f"{PROXY}/artifacts", params={"path": things[TEXT].artifacts}).json()
        assert "c.txt" not in {each["path"] for each in found.get("files", [])}


def test_a_request_names_one_thing_by_one_name(divided: Server, things: dict[str, Made]) -> None:
    own, other = things[VISION], things[TEXT]
    tag = {"key": "taken", "value": "yes"}
    with divided.as_account(VISION) as client:
        for names in (
            {"run_uuid": own.run, "runId": other.run},
            {"run_id": own.run, "runId": other.run},
            {"run_id": own.run, "runUuid": other.run},
            {"runId": other.run},
        ):
            client.post(f"{API}/runs/set-tag", json={**names, **tag})
            client.post(f"{API}/runs/log-batch", json={**names, "tags": [tag]})
        finished = {"model_id": other.model, "status": 2}
        for body in (finished, {"modelId": other.model, "status": 2}, json.dumps(finished)):
            assert client.patch(f"{API}/logged-models/{own.model}", json=body).status_code == 403
        both = {"run_id": own.run, "run_uuid": other.run, "path": "c.txt"}
        assert client.post(f"{AJAX}/upload-artifact", params=both, content=b"text").status_code == 403
        for names in (
            {"experiment_id": own.experiment, "experimentId": other.experiment},
            {"experimentId": other.experiment},
        ):
            assert not client.post(f"{API}/runs/create", json=names).is_success
            assert not client.post(f"{API}/logged-models", json=names).is_success
        run = created(client.get(f"{API}/runs/get", params={"run_id": other.run}))["run"]
    assert "taken" not in {each["key"] for each in run["data"].get("tags", [])}


def test_metrics_go_to_no_model_of_another_s(divided: Server, things: dict[str, Made]) -> None:
    metric = {"key": "loss", "value": 1, "timestamp": 1, "step": 0, "model_id": things[TEXT].model}
    run = {"run_id": things[VISION].run}
    with divided.as_account(VISION) as client:
        assert client.post(f"{API}/runs/log-metric", json={**run, **metric}).status_code == 403
        assert client.post(f"{API}/runs/log-batch", json={**run, "metrics": [metric]}).status_code == 403
        models = [{"model_id": things[TEXT].model, "step": 0}]
        assert client.post(f"{API}/runs/outputs", json={**run, "models": models}).status_code == 403


def test_a_trace_is_not_taken(divided: Server, things: dict[str, Made]) -> None:
    taken = trace_of(things[VISION].experiment, things[TEXT].trace)
    with divided.as_account(VISION) as client:
        assert client.post(f"{V3}/traces", json=taken).status_code == 403
        again = trace_of(things[VISION].experiment, things[VISION].trace)
        assert client.post(f"{V3}/traces", json=again).status_code == 200
        named = trace_of(things[VISION].experiment, f"tr-{uuid.uuid4().hex}")
        named["trace"]["trace_info"]["assessments"] = [{"assessment_id": "a-1", "assessment_name": "good"}]
        assert client.post(f"{V3}/traces", json=named).status_code == 403
        headers = {"x-mlflow-experiment-id": things[VISION].experiment}
        assert client.post("/v1/traces", headers=headers, content=b"").status_code == 403


def test_what_no_pod_needs_is_refused(divided: Server) -> None:
    with divided.as_account(VISION) as client:
        model = {"name": some("vision_")}
        assert client.post(f"{API}/registered-models/create", json=model).status_code == 403
        assert client.post("/ajax-api/3.0/mlflow/demo/generate", json={}).status_code == 403
        assert client.post(f"{API}/roles/create", json={"name": "mine"}).status_code == 403


def test_an_account_goes_with_its_team(tmp_path: Path) -> None:
    prepare(tmp_path, WITH_TEAMS)
    said = prepare(tmp_path, {name: role for name, role in WITH_TEAMS.items() if name != TEXT})
    assert f"{TEXT}: removed" in said.splitlines()
    said = prepare(tmp_path, ACCOUNTS)
    assert {f"{VISION}: removed", "trainer: trainer"} <= set(said.splitlines())
