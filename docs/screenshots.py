# /// script
# requires-python = ">=3.11"
# dependencies = ["playwright", "httpx", "pyyaml", "rich", "typer"]
# ///
"""Takes the README's pictures from the running platform, with the Chromium of this machine.

uv run docs/screenshots.py [--out DIRECTORY]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
MODEL = "digits"
APPROVED_DAG = "fraud_training"
# Chromium looks up its maker's hosts otherwise, which a closed network answers with errors.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# For what has no end to wait for: charts that are drawn, a graph that glides into place.
SETTLE_MILLISECONDS = 3000
sys.path.insert(0, str(ROOT / "scripts"))

from trainyard_cli.errors import CliError  # noqa: E402
from trainyard_cli.platform import Platform, connect  # noqa: E402


def main() -> None:
    """Take each picture again."""
    parser = argparse.ArgumentParser(description="Takes the README's pictures from the running platform.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="directory of the pictures")
    out = parser.parse_args().out
    try:
        out.mkdir(parents=True, exist_ok=True)
        take_pictures(connect(), out)
    except (CliError, Error) as error:
        sys.exit(f"error: {error}")


def take_pictures(platform: Platform, out: Path) -> None:
    """Save the pictures into the directory. Raises CliError, or playwright's Error when a page differs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise CliError("Chromium was not found", "apt-get install chromium, then run this again")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(
            viewport={"width": 1400, "height": 800}, color_scheme="light", **mlflow_login(platform)
        )
        show_mlflow_run(page, platform.mlflow.base_url)
        save(page, out / "mlflow-run.png")
        log_in(page, platform)
        show_graph(page, platform, "digits_training", "up-", "run ./scripts/up first")
        save(page, out / "airflow-graph.png")
        cure = "run ./scripts/run data_arrival and ./scripts/run fraud_detection_training first"
        show_graph(page, platform, "fraud_detection_training", "", cure)
        save(page, out / "fraud-graph.png")
        show_question(page, platform)
        save(page, out / "approval.png")
        browser.close()


def mlflow_login(platform: Platform) -> dict[str, Any]:
    """How the browser answers when MLflow asks for a login."""
    if not platform.mlflow.auth:
        return {}
    username, password = platform.mlflow.auth
    return {
        "http_credentials": {
            "username": username,
            "password": password,
            "origin": platform.mlflow.base_url,
            "send": "always",
        }
    }


def show_mlflow_run(page: Page, url: str) -> None:
    """Open the metrics of the champion's run."""
    api = f"{url}/api/2.0/mlflow"
    query = {"name": MODEL, "alias": "champion"}
    run_id = get(page, f"{api}/registered-models/alias", query)["model_version"]["run_id"]
    run = get(page, f"{api}/runs/get", {"run_id": run_id})["run"]["info"]
    page.goto(url)
    page.get_by_text("Model training", exact=True).first.click()
    page.goto(f"{url}/#/experiments/{run['experiment_id']}/runs/{run_id}/model-metrics")
    page.get_by_text("val_loss").first.wait_for()
    page.get_by_role("button", name="Close").last.click()  # MLflow's assistant


def log_in(page: Page, platform: Platform) -> None:
    """Log into Airflow; the browser keeps the session."""
    page.goto(f"{platform.airflow.base_url}/auth/login/")
    page.fill("input[name=username]", platform.username)
    page.fill("input[name=password]", platform.password)
    page.click("input[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)


def show_graph(page: Page, platform: Platform, dag: str, prefix: str, cure: str) -> None:
    """Open the graph of the newest successful run of a DAG whose name begins with `prefix`."""
    query = {"state": "success", "order_by": "-start_date"}
    run_id = next((each for each in runs_of(page, platform, dag, query) if each.startswith(prefix)), None)
    if run_id is None:
        raise CliError(f"there is no successful run of {dag}", cure)
    page.goto(platform.airflow.run_url(dag, run_id))
    for name, opposite in (("Show Graph", "Show Grid"), ("Collapse Details Panel", "Expand Details Panel")):
        button = page.get_by_role("button", name=name)  # the browser remembers what was clicked before
        button.or_(page.get_by_role("button", name=opposite)).first.wait_for()
        if button.count():
            button.click()
    page.locator(".react-flow__node").first.wait_for()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.get_by_role("button", name="Fit View").click()


def show_question(page: Page, platform: Platform) -> None:
    """Open the page on which a person decides about a model."""
    runs = runs_of(page, platform, APPROVED_DAG, {"state": "running", "order_by": "-start_date"})
    if not runs:
        cure = f"start ./scripts/run {APPROVED_DAG} and wait until it asks"
        raise CliError(f"no run of {APPROVED_DAG} waits for a person", cure)
    page.goto(f"{platform.airflow.run_url(APPROVED_DAG, runs[0])}/tasks/approve/required_actions")
    page.get_by_role("button", name="Approve").wait_for()


def runs_of(page: Page, platform: Platform, dag: str, query: dict[str, str | float | bool]) -> list[str]:
    """Return the ids of a DAG's runs."""
    found = get(page, f"{platform.airflow.base_url}/api/v2/dags/{dag}/dagRuns", query)
    return [run["dag_run_id"] for run in found["dag_runs"]]


def get(page: Page, url: str, query: dict[str, str | float | bool]) -> Any:
    """Return what the server answers to this browser. Raises CliError with its words when it refuses."""
    answer = page.request.get(url, params=query)
    if not answer.ok:
        raise CliError(f"{url} answered {answer.status}: {answer.text()[:200]}", "see the message")
    return answer.json()


def save(page: Page, file: Path) -> None:
    """Save a picture of what the page shows when it has settled."""
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=file)
    print(file)


if __name__ == "__main__":
    main()
