# /// script
# requires-python = ">=3.11"
# dependencies = ["playwright", "httpx", "pyyaml", "rich", "typer"]
# ///
"""Takes the README's pictures from the running platform, with the Chromium of this machine.

uv run docs/screenshots.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
DAG = "digits_training"
# Chromium looks up its maker's hosts otherwise, which a closed network answers with errors.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# Both pages keep asking for news, so there is no moment at which the network rests.
DRAWING_MILLISECONDS = 8000
sys.path.insert(0, str(ROOT / "scripts"))

from trainyard_cli.platform import Platform, connect  # noqa: E402


def main() -> None:
    """Take each picture anew."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("error: Chromium was not found\n  cure: apt-get install chromium, then run this again")
    platform = connect()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 860}, color_scheme="light")
        show(page, mlflow_run(platform))
        page.get_by_role("button", name="Close").last.click()  # MLflow's assistant
        save(page, "mlflow-run.png")
        log_in(page, platform)
        show(page, airflow_run(platform))
        page.get_by_role("button", name="Show Graph").click()
        save(page, "airflow-graph.png")
        browser.close()


def log_in(page: Page, platform: Platform) -> None:
    """Log into Airflow; the browser keeps the session."""
    page.goto(f"{platform.airflow.base_url}/auth/login/")
    page.fill("input[name=username]", platform.username)
    page.fill("input[name=password]", platform.password)
    page.click("input[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)


def show(page: Page, url: str) -> None:
    """Open a page and wait until it has drawn itself."""
    page.goto(url)
    page.wait_for_timeout(DRAWING_MILLISECONDS)
    print(url)


def save(page: Page, name: str) -> None:
    """Save a picture of what the page shows now."""
    page.wait_for_timeout(DRAWING_MILLISECONDS / 4)
    page.screenshot(path=IMAGES / name)


def airflow_run(platform: Platform) -> str:
    """The page of the newest run of ./scripts/up that succeeded."""
    path = f"/api/v2/dags/{DAG}/dagRuns?state=success&order_by=-start_date"
    found = [run["dag_run_id"] for run in platform.airflow._get(path)["dag_runs"]]
    return platform.airflow.run_url(DAG, next(run for run in found if run.startswith("up-")))


def mlflow_run(platform: Platform) -> str:
    """The metrics page of the champion's run."""
    path = "registered-models/alias"
    champion = platform.mlflow._get(path, {"name": "digits", "alias": "champion"})["model_version"]
    version = platform.mlflow._version(champion)
    return f"{platform.mlflow.run_url(version)}/model-metrics"


if __name__ == "__main__":
    main()
