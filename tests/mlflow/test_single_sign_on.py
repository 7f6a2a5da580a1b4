"""Single sign-on: who the provider says somebody is decides what he may do in MLflow."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from conftest import CLIENT, ROLES, Provider, Server

EXPERIMENTS = "/api/2.0/mlflow/experiments"
ME = "/ajax-api/2.0/mlflow/users/current"


def person(provider: Provider, *groups: str, **claims: Any) -> tuple[str, str]:
    """Make somebody new; return the subject and the address."""
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    known = {"email": name, "email_verified": True, "groups": list(groups), **claims}
    return provider.knows(name.partition("@")[0], **known), name


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
        provider.knows(subject, email=name, email_verified=True, groups=["readers"])
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
    subject = provider.knows(f"as-{account}", email=account, email_verified=True, groups=["ml"])
    with server.browser() as browser:
        answer = provider.log_in(browser, subject)
        assert answer.status_code == 403
        assert f"an account {account} with a password" in answer.text
        assert str(browser.get("/").url).startswith(provider.issuer)
    token = provider.token(subject)
    answer = httpx.get(f"{server.url}{ME}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def test_who_loses_every_group_has_no_session(server: Server, provider: Provider) -> None:
    subject, name = person(provider, "platform")
    with server.browser() as before, server.browser() as after:
        provider.log_in(before, subject)
        provider.knows(subject, email=name, email_verified=True, groups=[])
        assert provider.log_in(after, subject).status_code == 403
        assert str(before.get("/").url).startswith(provider.issuer)
        # And may come back with a group.
        provider.knows(subject, email=name, email_verified=True, groups=["ml"])
        assert provider.log_in(after, subject).is_success
        assert may_create(after)


@pytest.mark.parametrize("verified", [False, None, "true"])
def test_an_address_that_is_not_verified_is_nobodys(
    server: Server, provider: Provider, verified: object
) -> None:
    subject, name = person(provider, "ml", email_verified=verified)
    with server.browser() as browser:
        answer = provider.log_in(browser, subject)
    assert answer.status_code == 403
    assert name in answer.text
    assert "mlflow.auth.oidc.requireVerifiedEmail" in answer.text


def test_who_trusts_the_provider_needs_no_verified_address(settings: dict[str, Any]) -> None:
    sign_on, _ = in_this_process({**settings, "require_verified_email": False})
    assert sign_on.settings.name({"email": "ada@example.com"}) == "ada@example.com"


def test_two_tabs_log_in_side_by_side(server: Server, provider: Provider) -> None:
    subject, _ = person(provider, "ml")
    with server.browser() as browser:
        forms = [str(browser.get(f"/?tab={number}").url) for number in range(2)]
        for number, form in enumerate(forms):
            shown = browser.post(form, data={"sub": subject})
            assert shown.is_success, shown.text
            assert str(shown.url) == f"{server.url}/?tab={number}"
        # The way back, after the login: the code has been used.
        back = next(str(one.url) for one in shown.history if "/oidc/callback" in str(one.url))
        assert browser.get(back).is_success


def test_a_link_to_an_artifact_leads_to_the_provider_and_back(server: Server, provider: Provider) -> None:
    subject, _ = person(provider, "platform")
    path = f"/api/2.0/mlflow-artifacts/artifacts/{uuid.uuid4().hex}/report.html"
    with server.as_account("admin") as admin:
        admin.put(path, content=b"<p>Report</p>").raise_for_status()
    with server.browser() as browser:
        shown = provider.log_in(browser, subject, path)
        assert (str(shown.url), shown.text) == (f"{server.url}{path}", "<p>Report</p>")


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


def test_a_token_without_groups_is_refused(server: Server, provider: Provider) -> None:
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    subject = provider.knows(name.partition("@")[0], email=name, email_verified=True)
    headers = {"Authorization": f"Bearer {provider.token(subject)}"}
    answer = httpx.get(f"{server.url}{ME}", headers=headers)
    assert answer.status_code == 403
    assert "does not say your groups" in answer.text


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
    sign_on._provider.server_metadata["id_token_signing_alg_values_supported"] = listed
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


@pytest.mark.parametrize(
    "page",
    [
        "//example.com/x",
        "/%5C/example.com/x",
        "/%2F/example.com/x",
        *(
            f"/oidc/login?page={page}"
            for page in ("//example.com/x", "/%09/example.com/x", "%5C%5Cexample.com/x")
        ),
    ],
)
def test_the_way_back_leads_to_no_other_host(server: Server, provider: Provider, page: str) -> None:
    subject, _ = person(provider, "ml")
    with server.browser() as browser:
        shown = provider.log_in(browser, subject, f"{server.url}{page}")
    assert str(shown.url).startswith(f"{server.url}/")
    assert "example.com/x" in shown.url.path


def claims_of(name: str, *groups: str, said: int = 1_000) -> dict[str, Any]:
    return {"email": name, "email_verified": True, "groups": list(groups), "iat": said}


def test_an_account_may_be_made_by_several_processes_at_once(
    settings: dict[str, Any], accounts: Callable[[str], set[str]]
) -> None:
    sign_on, _ = in_this_process(settings)
    claims = claims_of(f"{uuid.uuid4().hex[:8]}@example.com", "ml")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(sign_on._declare, [claims] * 4)) == {claims["email"]}
    assert accounts(claims["email"]) == {"editor", "signed-on"}


@pytest.mark.parametrize("last", ["is_newest", "give_role"])
def test_an_account_that_was_not_finished_is_finished(
    settings: dict[str, Any],
    accounts: Callable[[str], set[str]],
    monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:
    sign_on, _ = in_this_process(settings)
    claims = claims_of(f"{uuid.uuid4().hex[:8]}@example.com", "ml")
    with monkeypatch.context() as killed:
        killed.setattr(f"single_sign_on.{last}", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sign_on._declare(claims)
    assert accounts(claims["email"]) == set()
    sign_on._declare(claims)
    assert accounts(claims["email"]) == {"editor", "signed-on"}


def test_what_the_provider_said_last_counts(
    settings: dict[str, Any], accounts: Callable[[str], set[str]]
) -> None:
    from single_sign_on import Refused

    sign_on, _ = in_this_process(settings)
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    sign_on._declare(claims_of(name, "platform", said=1_000))
    sign_on._declare(claims_of(name, "readers", said=2_000))
    sign_on._declare(claims_of(name, "platform", said=1_500))
    assert accounts(name) == {"viewer", "signed-on"}
    with pytest.raises(Refused, match="in no group"):
        sign_on._declare(claims_of(name, said=3_000))
    with pytest.raises(Refused, match="in no group"):
        sign_on._declare(claims_of(name, "platform", said=2_500))
    assert accounts(name) == {"signed-on"}


def test_a_provider_is_asked_for_its_keys_no_more_than_needed(
    settings: dict[str, Any], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import identity_provider

    now, asked = [1_000.0], []
    monkeypatch.setattr(identity_provider.time, "monotonic", lambda: now[0])
    sign_on, app = in_this_process(settings)
    session = sign_on._provider._get_session

    def counting() -> Any:
        asked.append(now[0])
        return session()

    monkeypatch.setattr(sign_on._provider, "_get_session", counting)

    def send(token: str) -> int:
        with app.test_request_context("/", headers={"Authorization": f"Bearer {token}"}):
            answer = sign_on.authenticate()
        return getattr(answer, "status_code", 200)

    subject, _ = person(provider, "ml")
    _, claims, signature = provider.token(subject).split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": "unknown"}).encode()).decode()
    unknown = f"{head.rstrip('=')}.{claims}.{signature}"
    assert [send(unknown) for _ in range(5)] == [401] * 5
    assert len(asked) == 2  # for the metadata and for the keys
    now[0] += identity_provider.PAUSE_SECONDS
    assert [send(unknown) for _ in range(5)] == [401] * 5
    assert len(asked) == 3
    now[0] += identity_provider.KEYS_SECONDS
    sign_on._provider.fetch_jwk_set()
    assert len(asked) == 3, "believed for as long as that"
    now[0] += 1
    sign_on._provider.fetch_jwk_set()
    assert len(asked) == 4


def test_an_answer_that_nobody_asked_for_is_refused(server: Server, provider: Provider) -> None:
    with server.browser() as browser:
        answer = browser.get("/oidc/callback?code=abc&state=def")
    assert answer.status_code == 403


def test_a_session_ends(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sign_on, app = in_this_process(settings)
    with app.test_request_context("/"):
        from flask import session

        monkeypatch.setattr("single_sign_on.roles_of", lambda store, name: {"signed-on", "viewer"})
        session.update(name="ada@example.com", until=time.time() + 5)
        assert sign_on.authenticate().username == "ada@example.com"
        session.update(until=time.time() - 5)
        assert sign_on.authenticate().status_code == 401


@pytest.mark.parametrize(
    ("pages", "host_alone"), [([], False), (["http://mlflow"], False), (["https://mlflow.example.com"], True)]
)
def test_cookies_are_of_this_mlflow_alone(
    settings: dict[str, Any], pages: list[str], host_alone: bool
) -> None:
    _, app = in_this_process({**settings, "pages": pages})
    name = app.config["SESSION_COOKIE_NAME"]
    assert name.startswith("__Host-mlflow-" if host_alone else "mlflow-")
    assert app.config["SESSION_COOKIE_SECURE"] == host_alone


def test_a_provider_that_is_down_is_named_and_left_alone(settings: dict[str, Any]) -> None:
    sign_on, app = in_this_process({**settings, "issuer": "http://localhost:9"})
    for reason in (b"Connection refused", b"it did not a moment ago"):
        with app.test_request_context("/oidc/login"):
            answer = sign_on.authenticate()
        assert answer.status_code == 502
        assert b"The identity provider http://localhost:9 does not answer" in answer.data
        assert reason in answer.data


@pytest.mark.parametrize(
    ("host", "address"),
    [("mlflow.example.com", "https://mlflow.example.com"), ("localhost:5000", "http://localhost:5000")],
)
def test_the_way_back_is_the_page_that_people_know(settings: dict[str, Any], host: str, address: str) -> None:
    sign_on, app = in_this_process({**settings, "pages": ["https://mlflow.example.com"]})
    with app.test_request_context("/oidc/login", headers={"Host": host}):
        location = sign_on.authenticate().headers["Location"]
    assert httpx.URL(location).params["redirect_uri"] == f"{address}/oidc/callback"


def test_everybody_may_have_a_role(settings: dict[str, Any]) -> None:
    sign_on, _ = in_this_process({**settings, "roles": {"*": "viewer", **ROLES}})
    assert sign_on.settings.role({}) == "viewer"
    assert sign_on.settings.role({"groups": "ml"}) == "editor"
    assert sign_on.settings.needs_groups()
    sign_on, _ = in_this_process({**settings, "roles": {"*": "viewer"}})
    assert not sign_on.settings.needs_groups()


@pytest.fixture
def accounts(tmp_path: Path) -> Callable[[str], set[str]]:
    """A database of this process's own. Returns which roles and marks an account has."""
    from accounts import roles_of
    from mlflow.server import auth
    from prepare_database import declare

    auth.store.init_db(f"sqlite:///{tmp_path}/accounts.db")
    declare(auth.store, {}, tmp_path)
    return partial(roles_of, auth.store)


def in_this_process(settings: dict[str, Any]) -> Any:
    """Return single sign-on with these settings, and the app that it is for."""
    from mlflow.server import app
    from single_sign_on import Settings, SingleSignOn

    app.secret_key = "a-key-of-the-tests"
    return SingleSignOn(Settings.read({"SINGLE_SIGN_ON": json.dumps(settings)})), app
