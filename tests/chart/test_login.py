"""MLflow's login: who has which account, and what remains where it is off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from render import (
    Object,
    containers,
    environment,
    find,
    platform,
    pod_spec,
    render_chart,
    wanted_secrets,
    worker_pod,
)

SERVER = "trainyard-mlflow"


def render(files: tuple[str, ...] = (), training: Object | None = None, **auth: Any) -> list[Object]:
    return render_chart(files=files, values={"mlflow": {"auth": auth}, "training": training or {}})


def secrets_of(pod: Object) -> set[str]:
    """Names of the Secrets among a pod's volumes."""
    sources = [each for one in pod["volumes"] for each in (one, *one.get("projected", {}).get("sources", []))]
    found = [each["secret"] for each in sources if "secret" in each]
    return {each.get("secretName") or each["name"] for each in found}


@pytest.mark.parametrize("files", [("kind.yaml",), ("production.yaml",)])
def test_each_has_its_own_account_and_no_other(files: tuple[str, ...]) -> None:
    objects = render(files)
    told = platform(objects)
    triggerer = pod_spec(find(objects, "Deployment", "trainyard-triggerer"))
    garbage = pod_spec(find(objects, "CronJob", "trainyard-mlflow-garbage-collection"))
    assert secrets_of({"volumes": told["training"]["pod"]["extraVolumes"]}) == {
        "trainyard-mlflow-login-trainer"
    }
    assert secrets_of({"volumes": told["serving"]["pod"]["extraVolumes"]}) == {
        "trainyard-mlflow-login-serving"
    }
    of_database = {"trainyard-database-ca"}  # in production
    assert secrets_of(triggerer) - of_database == {"trainyard-alerts", "trainyard-promoter"}
    assert secrets_of(garbage) - of_database == {"trainyard-mlflow-login-admin"}
    # A Secret of the training namespace holds nobody else's password.
    made = wanted_secrets(objects)
    assert (
        "login-trainer/password"
        in made["ml-training/trainyard-mlflow-login-trainer"]["credentials"]["template"]
    )
    assert [name for name in made if name.startswith("ml-training/") and "mlflow" in name] == [
        "ml-training/trainyard-mlflow-login-trainer"
    ]
    for name in ("api-server", "scheduler", "dag-processor"):
        workload = find(objects, "Deployment", f"trainyard-{name}")
        assert "trainyard-promoter" not in secrets_of(pod_spec(workload))
    assert not secrets_of(pod_spec(worker_pod(objects)))


def test_the_server_knows_accounts_and_asks_for_a_login() -> None:
    people = {"ada": "editor", "grace": "admin"}
    objects = render(people=people)
    server = find(objects, "Deployment", SERVER)
    (prepare,) = pod_spec(server)["initContainers"]
    accounts = {"admin": "admin", "trainer": "trainer", "promoter": "promoter", "serving": "viewer", **people}
    assert json.loads(environment(prepare)["ACCOUNTS"]) == accounts
    assert secrets_of(pod_spec(server)) == {f"trainyard-mlflow-login-{name}" for name in accounts}
    (container,) = pod_spec(server)["containers"]
    assert "--app-name=basic-auth" in container["args"]
    # The probes are answered without a login.
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/api/3.0/mlflow/server-info"
    assert set(wanted_secrets(objects)["trainyard-mlflow-login-ada"]) == {"username", "password"}


def test_passwords_are_no_arguments_and_no_variables() -> None:
    for container in containers(find(render(), "Deployment", SERVER)):
        assert "$(" not in " ".join(container.get("args", []))
        assert not [name for name in environment(container) if "PASSWORD" in name]


def test_off_leaves_nothing_of_it() -> None:
    objects = render(enabled=False)
    # The triggerer's mount is there anyway, and empty without the Secret.
    for kind, name in (("Deployment", SERVER), ("CronJob", "trainyard-mlflow-garbage-collection")):
        assert not secrets_of(pod_spec(find(objects, kind, name)))
    assert not [name for name in wanted_secrets(objects) if "login" in name or "promoter" in name]
    assert platform(objects)["training"]["pod"]["extraVolumes"] == []
    (container,) = pod_spec(find(objects, "Deployment", SERVER))["containers"]
    assert "--app-name=basic-auth" not in container["args"]


def test_another_mlflow_gets_no_password_of_this_one() -> None:
    told = platform(render(training={"trackingUri": "http://mlflow.example.com"}))
    assert told["training"]["pod"]["extraVolumes"] == told["serving"]["pod"]["extraVolumes"] == []


def test_settings_of_a_pod_stay_beside_the_login() -> None:
    pod = {
        "extraVolumes": [{"name": "certificates", "configMap": {"name": "certificates"}}],
        "extraVolumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
    }
    told = platform(render(training={"pod": pod}))["training"]["pod"]
    assert [one["name"] for one in told["extraVolumes"]] == ["mlflow-login", "certificates"]
    assert [one["mountPath"] for one in told["extraVolumeMounts"]] == ["/tmp/.mlflow", "/certificates"]


OIDC = {
    "issuer": "https://login.example.com:8443/realms/ml",
    "secretName": "oidc-client",
    "secretKey": "secret",
    "roles": {"ml-engineers": "editor"},
}
PAGE = {"enabled": True, "host": "mlflow.example.com", "tlsSecretName": "mlflow-tls"}


def render_single_sign_on(**more: Any) -> list[Object]:
    return render_chart(values={"mlflow": {"auth": {"oidc": {**OIDC, **more}}, "ingress": PAGE}})


def test_the_server_knows_the_provider() -> None:
    server = find(render_single_sign_on(), "Deployment", SERVER)
    (container,) = pod_spec(server)["containers"]
    assert json.loads(environment(container)["SINGLE_SIGN_ON"]) == {
        "issuer": OIDC["issuer"],
        "client_id": "mlflow",
        "client_secret_file": "/single-sign-on/client-secret",
        "scopes": ["openid", "email", "profile"],
        "username_claim": "email",
        "groups_claim": "groups",
        "require_verified_email": True,
        "roles": OIDC["roles"],
        "session_hours": 8,
        "pages": ["https://mlflow.example.com"],
        "ca": "",
    }
    assert files_of(server, "single-sign-on") == {"client-secret": ("oidc-client", "secret")}


def test_the_provider_may_have_a_ca_of_its_own() -> None:
    server = find(render_single_sign_on(caSecretName="corporate-ca"), "Deployment", SERVER)
    (container,) = pod_spec(server)["containers"]
    assert json.loads(environment(container)["SINGLE_SIGN_ON"])["ca"] == "/single-sign-on/ca.crt"
    assert files_of(server, "single-sign-on")["ca.crt"] == ("corporate-ca", "ca.crt")


def test_without_an_issuer_there_is_nothing_of_it() -> None:
    server = find(render(), "Deployment", SERVER)
    assert not [each for each in containers(server) if "SINGLE_SIGN_ON" in environment(each)]
    assert "single-sign-on" not in {volume["name"] for volume in pod_spec(server)["volumes"]}


def files_of(workload: Object, volume: str) -> dict[str, tuple[str, str]]:
    """Files of a projected volume: name -> (Secret, key)."""
    (found,) = [each for each in pod_spec(workload)["volumes"] if each["name"] == volume]
    sources = [source["secret"] for source in found["projected"]["sources"]]
    return {item["path"]: (source["name"], item["key"]) for source in sources for item in source["items"]}
