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
DAG = "digits_training"
MODEL = "digits"
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
    """Take each picture anew."""
    parser = argparse.ArgumentParser(description="Takes the README's pictures from the running platform.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="directory of the pictures")
    out = parser.parse_args().out
    try:
        out.mkdir(parents=True, exist_ok=True)
        take_pictures(connect(), out)
    except (CliError, Error) as error:
        sys.exit(f"error: {error}")


def take_pictures(platform: Platform, out: Path) -> None:
    """Save both pictures into the directory. Raises CliError, or playwright's Error when a page differs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise CliError("Chromium was not found", "apt-get install chromium, then run this again")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 800}, color_scheme="light")
        show_mlflow_run(page, platform.mlflow.base_url)
        save(page, out / "mlflow-run.png")
        log_in(page, platform)
        show_airflow_graph(page, platform)
        save(page, out / "airflow-graph.png")
        browser.close()


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


def show_airflow_graph(page: Page, platform: Platform) -> None:
    """Open the graph of the newest successful run of ./scripts/up."""
    url = platform.airflow.base_url
    query = {"state": "success", "order_by": "-start_date"}
    runs = [run["dag_run_id"] for run in get(page, f"{url}/api/v2/dags/{DAG}/dagRuns", query)["dag_runs"]]
    run_id = next((each for each in runs if each.startswith("up-")), None)
    if run_id is None:
        raise CliError(f"no run of {DAG} by ./scripts/up has succeeded", "run ./scripts/up first")
    page.goto(platform.airflow.run_url(DAG, run_id))
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Collapse Details Panel").click()
    page.locator(".react-flow__node").first.wait_for()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.get_by_role("button", name="Fit View").click()


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
