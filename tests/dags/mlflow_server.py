"""A real MLflow server: its REST API on a SQLite store, as `mlflow server` serves it.

`python mlflow_server.py FOLDER` serves on a free port, whose number it prints, until it is terminated. The
command `mlflow server` itself wants packages that mlflow-skinny goes without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve from a store in `folder`; yields the address."""
    command = [sys.executable, __file__, str(folder)]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout
            port = process.stdout.readline().strip()
            assert port, (folder / "server.log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def main(folder: Path) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.server import app  # before the settings, which make it import its CORS package
    from mlflow.server.handlers import initialize_backend_stores
    from werkzeug.serving import make_server

    store = f"sqlite:///{folder}/mlflow.db"
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (folder / "artifacts").as_uri(),
    }
    initialize_backend_stores(store, default_artifact_root="mlflow-artifacts:/")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
