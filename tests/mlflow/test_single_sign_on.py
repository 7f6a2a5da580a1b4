"""Single sign-on: who the provider says somebody is decides what he may do in MLflow."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import httpx
import pytest
from conftest import CLIENT, ROLES, Provider, Server

EXPERIMENTS = "/api/2.0/mlflow/experiments"
ME = "/ajax-api/2.0/mlflow/users/current"


def person(provider: Provider, *groups: str, **claims: Any) -> tuple[str, str]:
    """Make somebody new; return the subject and the address."""
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    return provider.knows(name.partition("@")[0], email=name, groups=list(groups), **claims), name


def may_create(client: httpx.Client) -> bool:
    """Whether somebody may make an experiment, as editors may and viewers may not."""
    answer = client.post(f"{EXPERIMENTS}/create", json={"name": uuid.uuid4().hex})
    assert answer.status_code in (200, 403), answer.text
    return answer.is_success


def test_a_page_leads_to_the_provider_and_back(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "ml")
    with server.browser() as browser:
        shown = provider.log_in(browser, subject, "/?page=mine")
        assert str(shown.url) == f"{server.url}/?page=mine"
        assert shown.is_success
        me = browser.get(ME).json()
        assert (me["user"]["username"], me["user"]["is_admin"]) == (name, False)
        assert may_create(browser)


@pytest.mark.parametrize(
    ("groups", "creates", "admin"),
    [(["readers"], False, False), (["readers", "ml"], True, False), (["other", "platform"], True, True)],
)
def test_groups_decide_the_role(
    server: Server, provider: Provider, groups: list[str], creates: bool, admin: bool
) -> None:
    subject, _ = person(provider, *groups)
    with server.browser() as browser:
        provider.log_in(browser, subject)
        assert may_create(browser) == creates
        assert browser.get(ME).json()["user"]["is_admin"] == admin


def test_another_group_is_another_role_at_the_next_login(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "platform")
    with server.browser() as before, server.browser() as after:
        provider.log_in(before, subject)
        assert before.get(ME).json()["user"]["is_admin"]
        provider.knows(subject, email=name, groups=["readers"])
        provider.log_in(after, subject)
        assert not after.get(ME).json()["user"]["is_admin"]
        # The session from before is of the same account.
        assert not may_create(before)


def test_who_is_in_no_group_is_told_so(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "other")
    with server.browser() as browser:
        answer = provider.log_in(browser, subject)
    assert answer.status_code == 403
    assert answer.text == f"{name} is in no group that has a role in MLflow.\n"


@pytest.mark.parametrize("account", ["admin", "promoter"])
def test_nobody_gets_an_account_of_the_platform(server: Server, provider: Provider, account: str) -> None:
    subject = provider.knows(f"as-{account}", email=account, groups=["ml"])
    with server.browser() as browser:
        answer = provider.log_in(browser, subject)
        assert answer.status_code == 403
        assert f"an account {account} with a password" in answer.text
        assert str(browser.get("/").url).startswith(provider.issuer)
    token = provider.token(subject)
    answer = httpx.get(f"{server.url}{ME}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def test_an_address_that_is_not_verified_is_nobodys(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "ml", email_verified=False)
    with server.browser() as browser:
        answer = provider.log_in(browser, subject)
    assert (answer.status_code, name in answer.text) == (403, True)


def test_a_program_sends_its_token(
    server: Server, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    subject, _ = person(provider, "ml")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", provider.token(subject))
    name = uuid.uuid4().hex
    client = mlflow.MlflowClient(server.url)
    client.create_experiment(name)
    assert client.get_experiment_by_name(name).name == name


def test_a_token_for_somebody_else_is_refused(server: Server, provider: Provider) -> None:
    subject, _ = person(provider, "ml")
    token = provider.token(subject)
    head, claims, signature = token.split(".")
    bad = {
        "of another client": provider.token(subject, f"not-{CLIENT}"),
        "with another signature": f"{head}.{claims}.{signature[::-1]}",
        "without one": f"eyJhbGciOiJub25lIn0.{claims}.",
        "no token": "abc",
    }
    for what, each in bad.items():
        answer = httpx.get(f"{server.url}{ME}", headers={"Authorization": f"Bearer {each}"})
        assert answer.status_code == 401, what
    good = httpx.get(f"{server.url}{ME}", headers={"Authorization": f"Bearer {token}"})
    assert good.is_success


@pytest.mark.parametrize("listed", [["RS256", "none"], ["none"], ["RS256", "HS256"]])
def test_a_token_that_nobody_signed_is_refused_whatever_the_provider_lists(
    settings: dict[str, Any], provider: Provider, listed: list[str]
) -> None:
    subject, _ = person(provider, "platform")
    head, claims, _ = provider.token(subject).split(".")
    known = json.loads(base64.urlsafe_b64decode(f"{head}=="))
    unsigned = base64.urlsafe_b64encode(json.dumps({**known, "alg": "none"}).encode()).decode().rstrip("=")
    sign_on, app = in_this_process(settings)
    sign_on._provider.load_server_metadata()["id_token_signing_alg_values_supported"] = listed
    headers = {"Authorization": f"Bearer {unsigned}.{claims}."}
    with app.test_request_context("/", headers=headers):
        assert sign_on.authenticate().status_code == 401


def test_a_script_of_a_page_gets_no_password_dialog(server: Server) -> None:
    answer = httpx.get(f"{server.url}{ME}", headers={"Sec-Fetch-Mode": "cors"})
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers


def test_an_administrator_may_come_by_password(server: Server) -> None:
    asked = httpx.get(f"{server.url}/?password", headers={"Accept": "text/html"})
    assert asked.status_code == 401
    assert asked.headers["WWW-Authenticate"].startswith("Basic")
    with server.as_account("admin") as admin:
        assert admin.get(ME).json()["user"]["is_admin"]


def test_leaving_ends_the_session(server: Server, provider: Provider) -> None:
    subject, _ = person(provider, "ml")
    with server.browser() as browser:
        provider.log_in(browser, subject)
        assert browser.get("/oidc/logout").is_success
        assert str(browser.get("/").url).startswith(provider.issuer)


def test_who_was_removed_has_no_session(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "ml")
    with server.browser() as browser, server.as_account("admin") as admin:
        provider.log_in(browser, subject)
        admin.request("DELETE", "/api/2.0/mlflow/users/delete", json={"username": name}).raise_for_status()
        assert str(browser.get("/").url).startswith(provider.issuer)


@pytest.mark.parametrize("page", ["//example.com/x", "/%5C/example.com/x", "/%2F/example.com/x"])
def test_the_way_back_leads_to_no_other_host(server: Server, provider: Provider, page: str) -> None:
    subject, _ = person(provider, "ml")
    with server.browser() as browser:
        shown = provider.log_in(browser, subject, f"{server.url}{page}")
    assert shown.url == f"{server.url}/example.com/x"


def test_an_account_may_be_made_by_two_processes_at_once(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    sign_on, _ = in_this_process(settings)
    given = []

    def give_account(name: str, role: str) -> None:
        given.append((name, role))
        if len(given) == 1:
            raise MlflowException("there is such a user")

    monkeypatch.setattr(sign_on, "_give_account", give_account)
    assert sign_on._declare({"email": "ada@example.com", "groups": ["ml"]}) == "ada@example.com"
    assert given == [("ada@example.com", "editor")] * 2


def test_an_answer_that_nobody_asked_for_is_refused(server: Server, provider: Provider) -> None:
    with server.browser() as browser:
        answer = browser.get("/oidc/callback?code=abc&state=def")
    assert answer.status_code == 403


def test_a_session_ends(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sign_on, app = in_this_process(settings)
    with app.test_request_context("/"):
        from flask import session

        monkeypatch.setattr("single_sign_on.marks", lambda store, name: {"signed-on"})
        session.update(name="ada@example.com", until=time.time() + 5)
        assert sign_on.authenticate().username == "ada@example.com"
        session.update(until=time.time() - 5)
        assert sign_on.authenticate().status_code == 401


def test_a_provider_that_is_down_is_named(settings: dict[str, Any]) -> None:
    sign_on, app = in_this_process({**settings, "issuer": "http://localhost:9"})
    with app.test_request_context("/", headers={"Accept": "text/html"}):
        answer = sign_on.authenticate()
    assert answer.status_code == 502
    assert b"The identity provider http://localhost:9 does not answer" in answer.data


@pytest.mark.parametrize(
    ("host", "address"),
    [("mlflow.example.com", "https://mlflow.example.com"), ("localhost:5000", "http://localhost:5000")],
)
def test_the_way_back_is_the_page_that_people_know(settings: dict[str, Any], host: str, address: str) -> None:
    sign_on, app = in_this_process({**settings, "pages": ["https://mlflow.example.com"]})
    with app.test_request_context("/", headers={"Accept": "text/html", "Host": host}):
        location = sign_on.authenticate().headers["Location"]
    assert httpx.URL(location).params["redirect_uri"] == f"{address}/oidc/callback"


def test_everybody_may_have_a_role(settings: dict[str, Any]) -> None:
    sign_on, _ = in_this_process({**settings, "roles": {"*": "viewer", **ROLES}})
    assert sign_on.settings.account({"email": "ada@example.com"}) == ("ada@example.com", "viewer")
    named = {"email": "ada@example.com", "groups": "ml"}
    assert sign_on.settings.account(named) == ("ada@example.com", "editor")


def in_this_process(settings: dict[str, Any]) -> Any:
    """Return single sign-on with these settings, and the app that it is for."""
    from mlflow.server import app
    from single_sign_on import Settings, SingleSignOn

    app.secret_key = "a-key-of-the-tests"
    return SingleSignOn(Settings.read({"SINGLE_SIGN_ON": json.dumps(settings)})), app
