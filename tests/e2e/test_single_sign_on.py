"""People log in to MLflow and Airflow at Keycloak, and their groups decide what they may do.

It becomes the release for the time of these tests, and is as before afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import DAG, NAMESPACE, ROOT, released_with
from keycloak import NODE_PORT, Keycloak, keycloak
from kubernetes import client
from trainyard_cli.airflow_api import Airflow
from trainyard_cli.mlflow_api import Mlflow

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

SECRET, CA = "trainyard-single-sign-on", "e2e-identity-ca"
ISSUER_OF_EXAMPLE = "https://login.example.com/realms/ml"
ME = "/ajax-api/2.0/mlflow/users/current"


@pytest.fixture(scope="module")
def pages(airflow: Airflow, mlflow: Mlflow) -> dict[str, str]:
    """The addresses that people of this cluster know."""
    return {"AIRFLOW": airflow.base_url, "MLFLOW": mlflow.base_url}


@pytest.fixture(scope="module")
def provider(core: client.CoreV1Api, pages: dict[str, str]) -> Iterator[Keycloak]:
    with keycloak(core, "e2e-identity", pages) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def signed_on(
    provider: Keycloak, airflow: Airflow, core: client.CoreV1Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The release with values/single-sign-on.yaml, but for the provider's address and its CA."""
    directory = tmp_path_factory.mktemp("single-sign-on")
    of_client = {"airflow": provider.client_secret, "mlflow": provider.client_secret}
    with (
        secret(core, SECRET, of_client),
        secret(core, CA, {"ca.crt": provider.ca}),
        released_with(values_for(provider), airflow, directory),
    ):
        yield


def values_for(provider: Keycloak) -> dict[str, Any]:
    text = (ROOT / "values/single-sign-on.yaml").read_text().replace(ISSUER_OF_EXAMPLE, provider.issuer)
    values = yaml.safe_load(text)
    values["networkPolicies"] = {"egress": {"ports": [443, NODE_PORT]}}
    values["mlflow"]["auth"]["oidc"]["caSecretName"] = CA
    server = values["airflow"]["apiServer"]
    server["apiServerConfig"] = server["apiServerConfig"].replace(
        '"scope": "openid email profile"', '"scope": "openid email profile", "verify": "/identity-ca/ca.crt"'
    )
    server["extraVolumes"] = [{"name": "identity-ca", "secret": {"secretName": CA}}]
    server["extraVolumeMounts"] = [{"name": "identity-ca", "mountPath": "/identity-ca", "readOnly": True}]
    return values


@contextmanager
def secret(core: client.CoreV1Api, name: str, texts: dict[str, str]) -> Iterator[None]:
    core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": name}, "stringData": texts})
    try:
        yield
    finally:
        core.delete_namespaced_secret(name, NAMESPACE)


@pytest.fixture
def browser(provider: Keycloak, tmp_path: Path) -> Iterator[httpx.Client]:
    with provider.browser(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("person", "creates", "admin"), [("ada", True, False), ("grace", True, True)], ids=["editor", "admin"]
)
def test_a_person_has_the_role_of_his_groups_in_mlflow(
    provider: Keycloak, browser: httpx.Client, pages: dict[str, str], person: str, creates: bool, admin: bool
) -> None:
    shown = provider.log_in(browser, f"{pages['MLFLOW']}/", person)
    assert shown.is_success and str(shown.url).startswith(pages["MLFLOW"])
    me = browser.get(f"{pages['MLFLOW']}{ME}").json()["user"]
    assert (me["username"], me["is_admin"]) == (f"{person}@example.com", admin)
    made = browser.post(
        f"{pages['MLFLOW']}/api/2.0/mlflow/experiments/create", json={"name": f"e2e-{uuid.uuid4().hex}"}
    )
    assert made.is_success == creates
    if made.is_success:
        experiment = {"experiment_id": made.json()["experiment_id"]}
        browser.post(
            f"{pages['MLFLOW']}/api/2.0/mlflow/experiments/delete", json=experiment
        ).raise_for_status()


def test_who_is_in_no_group_stays_outside(
    provider: Keycloak, browser: httpx.Client, pages: dict[str, str]
) -> None:
    shown = provider.log_in(browser, f"{pages['MLFLOW']}/", "mallory")
    assert shown.status_code == 403
    assert shown.text == "mallory@example.com is in no group that has a role in MLflow.\n"


def test_a_program_sends_its_token_to_mlflow(
    provider: Keycloak, browser: httpx.Client, pages: dict[str, str]
) -> None:
    token = provider.token(browser, "ada")
    answer = httpx.get(f"{pages['MLFLOW']}{ME}", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["user"]["username"] == "ada@example.com"


@pytest.mark.parametrize(
    ("person", "dags", "connections"), [("ada", 200, 403), ("grace", 200, 200), ("mallory", 403, 403)]
)
def test_a_person_has_the_role_of_his_groups_in_airflow(
    provider: Keycloak,
    browser: httpx.Client,
    pages: dict[str, str],
    person: str,
    dags: int,
    connections: int,
) -> None:
    provider.log_in(browser, f"{pages['AIRFLOW']}/auth/login/keycloak", person)
    api = f"{pages['AIRFLOW']}/api/v2"
    assert browser.get(f"{api}/dags/{DAG}").status_code == dags
    assert browser.get(f"{api}/connections").status_code == connections


def test_the_platform_keeps_its_accounts(
    airflow: Airflow, mlflow: Mlflow, trigger: Callable[..., str], finish: Callable[..., Any], versions: Any
) -> None:
    """A training, which logs to MLflow and promotes its model by the platform's own accounts."""
    run = finish(trigger("single-sign-on"))
    assert run.state == "success"
    (version,) = versions(run.run_id)
    assert version.aliases == ("champion",)
