"""Client of Airflow's REST API (v2): what the commands need to trigger a DAG and follow its run."""

from __future__ import annotations

import difflib
import graphlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from .errors import CliError

Json = dict[str, Any]

FINAL_RUN_STATES = ("success", "failed")
# How long a server that restarts may stay away before a request gives up, in seconds.
PATIENCE_SECONDS = 90.0
# How long a question may be answered by an error of the server, as when its database is away for a moment.
ERROR_SECONDS = 20.0


class Airflow:
    """One Airflow server, as one user. Every method raises CliError with the server's own explanation."""

    def __init__(self, base_url: str, username: str, password: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._login = {"username": username, "password": password}
        self._http = httpx.Client(base_url=self.base_url, timeout=30, trust_env=False)
        self._token = ""

    # ---- DAGs

    def dags(self) -> list[Json]:
        """Return every DAG that the DAG processor still finds."""
        return list(self._pages("/api/v2/dags", "dags", {"exclude_stale": True, "order_by": "dag_id"}))

    def wait_for_dag(self, dag_id: str, parsed_after: str, deadline_seconds: float = 180) -> Json:
        """Return the DAG once it was parsed after the given ISO time, so that what runs is what was released.

        A DAG id that does not exist is reported as soon as the others have been parsed, with close matches.
        """
        deadline = time.monotonic() + deadline_seconds
        while True:
            found = {dag["dag_id"]: dag for dag in self.dags()}
            dag = found.get(dag_id)
            if dag and _parsed_after(dag, parsed_after):
                return dag
            all_parsed = bool(found) and all(_parsed_after(each, parsed_after) for each in found.values())
            if time.monotonic() > deadline or (dag is None and all_parsed):
                raise self._no_dag(dag_id, sorted(found), stale=dag is not None)
            time.sleep(1)

    def _no_dag(self, dag_id: str, available: list[str], *, stale: bool) -> CliError:
        broken = list(self._pages("/api/v2/importErrors", "import_errors", {}))
        why = "".join(f"\n  {each['filename']}: {_last_line(each['stack_trace'])}" for each in broken)
        if stale:
            message = f'DAG "{dag_id}" was not parsed again after the release{why}'
            return CliError(
                message, "kubectl -n trainyard logs deploy/trainyard-dag-processor shows what it is at"
            )
        return unknown_dag(dag_id, available, why)

    def tasks(self, dag_id: str) -> list[str]:
        """Return the task ids of a DAG in the order in which they run."""
        tasks = self.get(f"/api/v2/dags/{quote(dag_id)}/tasks")["tasks"]
        return run_order({each["task_id"]: each["downstream_task_ids"] or [] for each in tasks})

    # ---- runs

    def trigger(self, dag_id: str, conf: Json, run_id: str, logical_date: datetime | None = None) -> Json:
        """Unpause the DAG and start a run. The run id makes it safe to ask twice: it starts once.

        The logical date is what ``{{ ds }}`` says; now, as that of the web pages, if none is given.
        """
        declared = self.get(f"/api/v2/dags/{quote(dag_id)}/details")["params"] or {}
        check_conf(dag_id, conf, list(declared))
        self.request("PATCH", f"/api/v2/dags/{quote(dag_id)}", json={"is_paused": False})
        date = (logical_date or datetime.now(UTC)).isoformat()
        body = {"dag_run_id": run_id, "logical_date": date, "conf": conf}
        response = self._send("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", json=body)
        if response.status_code == httpx.codes.CONFLICT:
            found = self._send("GET", _run(dag_id, run_id))
            if found.status_code != httpx.codes.NOT_FOUND:
                return _checked(found)
            raise CliError(
                f"{dag_id} has a run of the logical date {date}",
                "give another --logical-date, or clear that run",
            )
        if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            detail = _detail(response).partition("\n")[0]
            raise CliError(
                f'DAG "{dag_id}" refused its parameters: {detail}', "correct the JSON given with --conf"
            )
        return _checked(response)

    def dag_run(self, dag_id: str, run_id: str) -> Json:
        """Return the run with its state: queued, running, success or failed."""
        return self.get(_run(dag_id, run_id))

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Return the ids of runs that are queued or running."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns"
        response = self._send("GET", path, params={"state": ["queued", "running"], "limit": 100})
        # A DAG that was never parsed has no runs.
        found = [] if response.status_code == httpx.codes.NOT_FOUND else _checked(response)["dag_runs"]
        return [each["dag_run_id"] for each in found]

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Return every task instance of a run, mapped ones included."""
        return list(self._pages(_instances(dag_id, run_id), "task_instances", {}))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str, map_index: int = -1) -> Any:
        """Return an XCom of a task instance, None where there is none."""
        path = f"{_instances(dag_id, run_id)}/{quote(task_id)}/xcomEntries/{quote(key)}"
        response = self._send("GET", path, params={"map_index": map_index})
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return _decoded(_checked(response)["value"])

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> list[Json]:
        """Return the log of one try as messages: `event`, and where known `level` and `error_detail`."""
        path = f"{_instances(dag_id, run_id)}/{quote(task_id)}/logs/{try_number}"
        params = {"map_index": map_index, "full_content": True}
        content = self.get(path, params=params)["content"]
        return [{"event": each} if isinstance(each, str) else each for each in content]

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Return the address of the run's page."""
        return f"{self.base_url}/dags/{quote(dag_id)}/runs/{quote(run_id)}"

    # ---- any request

    def get(self, path: str, params: Json | None = None) -> Json:
        """Return what the server has at a path of its API."""
        return self.request("GET", path, params=params)

    def request(self, method: str, path: str, **options: Any) -> Json:
        """Return the server's answer to any request; `options` are those of httpx."""
        return _checked(self._send(method, path, **options))

    def _pages(self, path: str, key: str, params: Json) -> Iterator[Json]:
        offset = 0
        while True:
            page = self.get(path, {**params, "limit": 100, "offset": offset})
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send with a token, a fresh one when it has run out, and wait for a server that restarts."""
        start = time.monotonic()
        deadline = start + PATIENCE_SECONDS
        while True:
            try:
                if not self._token:
                    self._token = self._new_token()
                headers = {"Authorization": f"Bearer {self._token}"}
                response = self._http.request(method, path, headers=headers, **options)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if _token_is_refused(response):
                    self._token = ""
                elif not _may_pass(method, response, time.monotonic() - start):
                    return response
                problem = _detail(response)
            if time.monotonic() > deadline:
                cure = "./scripts/up checks the platform and repairs it"
                raise CliError(f"Airflow at {self.base_url} does not answer ({problem})", cure)
            time.sleep(1)

    def _new_token(self) -> str:
        response = self._http.post("/auth/token", json=self._login)
        if response.status_code in (400, 401, 403):
            message = f"Airflow refuses the password of user {self._login['username']}"
            raise CliError(
                message, "the Secret trainyard-admin holds another password than Airflow's database"
            )
        response.raise_for_status()
        return str(response.json()["access_token"])


def unknown_dag(dag_id: str, available: list[str], why: str = "") -> CliError:
    """Return the error for a DAG id that does not exist, with close matches first."""
    close = difflib.get_close_matches(dag_id, available, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    listed = ", ".join(available) or "none"
    return CliError(f'there is no DAG "{dag_id}"{why}', f"{hint}available DAGs: {listed}")


def check_conf(dag_id: str, conf: Json, declared: list[str]) -> None:
    """Refuse parameters that the DAG does not declare: Airflow would take a misspelt one in silence."""
    for name in conf:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            cure = f"{hint}its parameters: {', '.join(sorted(declared)) or 'none'}"
            raise CliError(f'DAG "{dag_id}" has no parameter "{name}"', cure)


def run_order(downstream: dict[str, list[str]]) -> list[str]:
    """Sort task ids so that each comes after those it waits for."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter({task: [] for task in downstream})
    for task, followers in downstream.items():
        for follower in followers:
            sorter.add(follower, task)
    return list(sorter.static_order())


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}"


def _instances(dag_id: str, run_id: str) -> str:
    return f"{_run(dag_id, run_id)}/taskInstances"


def _parsed_after(dag: Json, moment: str) -> bool:
    """Both times are ISO 8601 in UTC; Kubernetes writes whole seconds, Airflow microseconds."""
    return (dag["last_parsed_time"] or "")[:19] > moment[:19]


def _may_pass(method: str, response: httpx.Response, seconds: float) -> bool:
    """Whether an error of the server may go by itself. How far a change got before one, nobody knows."""
    is_error = response.status_code == 500 and method == "GET" and seconds < ERROR_SECONDS
    return is_error or response.status_code in (502, 503, 504)


def _token_is_refused(response: httpx.Response) -> bool:
    """A token that has run out gives 401, one signed with a key that is no longer in use gives 403."""
    return response.status_code == 401 or (response.status_code == 403 and "JWT" in response.text)


def _decoded(value: Any) -> Any:
    """An XCom's value as it was pushed: the API hands out some as their JSON text, some text as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"


def _detail(response: httpx.Response) -> str:
    """Return the server's explanation, whichever of its forms it has."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} {response.text[:200]}".strip()
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in detail)
    return str(detail)


def _checked(response: httpx.Response) -> Json:
    if response.is_success:
        return dict(response.json()) if response.content else {}  # what is deleted is answered by nothing
    where = f"{response.request.method} {response.request.url.path}"
    raise CliError(
        f"Airflow answered {response.status_code} to {where}: {_detail(response)}", "see the message"
    )
