"""Create or overwrite Airflow pools through the public API. Standard library only.

POOLS is a JSON list of {name, slots, description, include_deferred}. Other pools are not changed.
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
    """Call Airflow's API with a JSON body and return the JSON response. Raises urllib.error.URLError."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = os.environ["AIRFLOW_URL"] + path
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def log_in() -> str:
    """Return a token of the admin user; wait until the api-server responds and the user exists."""
    credentials = {"username": os.environ["ADMIN_USERNAME"], "password": os.environ["ADMIN_PASSWORD"]}
    deadline = time.monotonic() + PATIENCE_SECONDS
    reported = ""
    while True:
        try:
            return str(call("POST", "/auth/token", credentials)["access_token"])
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != reported:
                reported = str(error)
                print(f"waiting for the api-server: {reported}", flush=True)
            time.sleep(3)


def main() -> None:
    """Write the pools. Exits with an error that names each pool that Airflow rejected."""
    pools = json.loads(os.environ["POOLS"])
    action = {"action": "create", "entities": pools, "action_on_existence": "overwrite"}
    response = call("PATCH", "/api/v2/pools", {"actions": [action]}, log_in())["create"]
    if response["errors"]:
        raise SystemExit(f"Airflow rejected pools: {response['errors']}")
    print(f"pools: {', '.join(response['success'])}", flush=True)


if __name__ == "__main__":
    main()
