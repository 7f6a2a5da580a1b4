"""The accounts of the platform: each may do what its role says, and no more."""

from __future__ import annotations

import uuid

import httpx
import pytest
from conftest import ACCOUNTS, Server

API = "/api/2.0/mlflow"


@pytest.mark.parametrize(
    ("account", "experiment", "model"),
    [("admin", 200, 200), ("trainer", 200, 403), ("promoter", 200, 200), ("serving", 403, 403)],
)
def test_a_role_makes_what_it_may_change(server: Server, account: str, experiment: int, model: int) -> None:
    name = f"{account}-{uuid.uuid4().hex}"
    with server.as_account(account) as client:
        assert client.post(f"{API}/experiments/create", json={"name": name}).status_code == experiment
        assert client.post(f"{API}/registered-models/create", json={"name": name}).status_code == model


def test_the_trainer_moves_no_alias(server: Server) -> None:
    name = f"model-{uuid.uuid4().hex}"
    champion = {"name": name, "alias": "champion", "version": "1"}
    with server.as_account("promoter") as promoter, server.as_account("trainer") as trainer:
        run = trainer.post(f"{API}/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]
        promoter.post(f"{API}/registered-models/create", json={"name": name}).raise_for_status()
        version = {"name": name, "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
        promoter.post(f"{API}/model-versions/create", json=version).raise_for_status()
        assert trainer.post(f"{API}/registered-models/alias", json=champion).status_code == 403
        assert trainer.get(f"{API}/registered-models/get", params={"name": name}).status_code == 200
        assert promoter.post(f"{API}/registered-models/alias", json=champion).status_code == 200


@pytest.mark.parametrize("account", sorted(ACCOUNTS))
def test_a_wrong_password_is_refused(server: Server, account: str) -> None:
    answer = httpx.get(f"{server.url}{API}/experiments/search", auth=(account, "wrong-password"))
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_what_is_missing_is_missing_not_forbidden(server: Server) -> None:
    with server.as_account("serving") as client:
        answer = client.get(f"{API}/registered-models/get", params={"name": "nowhere"})
    assert answer.status_code == 404
