"""Write Airflow pools through the public API, making or overwriting each. Standard library only.

POOLS is a JSON list of {name, slots, description, include_deferred}. Pools that it does not name are left
alone.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE_SECONDS = 600


def call(method: str, path: str, body: dict[str, Any], token: str = "") -> Any:
    """Call Airflow's API with a JSON body and return the JSON answer; raises urllib.error.URLError."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = os.environ["AIRFLOW_URL"] + path
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def log_in() -> str:
    """Return a token of the admin user, waiting until the api-server and that user are there."""
    credentials = {"username": os.environ["ADMIN_USERNAME"], "password": os.environ["ADMIN_PASSWORD"]}
    deadline = time.monotonic() + PATIENCE_SECONDS
    said = ""
    while True:
        try:
            return str(call("POST", "/auth/token", credentials)["access_token"])
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != said:
                said = str(error)
                print(f"waiting for the api-server: {said}", flush=True)
            time.sleep(3)


def main() -> None:
    """Write the pools; exits with an error that names each pool which Airflow refused."""
    pools = json.loads(os.environ["POOLS"])
    action = {"action": "create", "entities": pools, "action_on_existence": "overwrite"}
    answer = call("PATCH", "/api/v2/pools", {"actions": [action]}, log_in())["create"]
    if answer["errors"]:
        raise SystemExit(f"Airflow refused pools: {answer['errors']}")
    print(f"pools: {', '.join(answer['success'])}", flush=True)


if __name__ == "__main__":
    main()
