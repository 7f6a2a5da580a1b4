"""Seconds to parse each DAG file once Airflow and the library are imported, as the DAG processor does.

./scripts/_python --dev python tests/bench/dag_parse.py
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
ROUNDS = 7

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="dag-parse-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["TRAINYARD_PLATFORM"] = str(ROOT / "tests/dags/platform.json")
sys.path[:0] = [str(ROOT / "library"), str(DAGS)]


def main() -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.dag_processing.importers import get_importer_registry
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from trainyard import policy

    assert policy.ADDITIONS  # what an installed library adds to Airflow: model files as DAG files
    logging.disable(logging.INFO)
    files = sorted(get_importer_registry().list_dag_files(DAGS))
    seconds: dict[str, list[float]] = {file: [] for file in files}
    for _ in track(range(ROUNDS), description="parsing"):
        for file in files:
            bag = DagBag(dag_folder=file, bundle_path=DAGS, collect_dags=False)
            started = time.perf_counter()
            found = bag.process_file(file, only_if_updated=False)
            seconds[file].append(time.perf_counter() - started)
            assert found, f"{file}: {bag.import_errors}"
    table = Table("file", "min", "median", "max", title=f"seconds to parse, {ROUNDS} rounds")
    # The first round pays for what a file imports beside the library: it shows as the maximum.
    for file, times in seconds.items():
        figures = (min(times), statistics.median(times), max(times))
        table.add_row(str(Path(file).relative_to(DAGS)), *(f"{figure:.3f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
