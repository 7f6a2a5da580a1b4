"""Where things lie: the checkout, and the one directory for everything cached or generated."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""

DEV = (str(ROOT / "scripts/_python"), "--dev")
"""Runs a program in the tests' environment, which has Airflow as its image does."""

HOME = Path(os.environ.get("TRAINYARD_HOME") or Path.home() / ".cache" / "trainyard").resolve()
"""Cache and state of this user; safe to delete while no cluster runs."""

LOGS = HOME / "logs"
SBOMS = HOME / "sbom"
STATE = HOME / "state"
KUBECONFIG = STATE / "kubeconfig"
SHARED_VOLUMES = STATE / "shared"
"""One directory per RWX claim, mounted into every kind worker at NODE_SHARED_VOLUMES."""

NODE_SHARED_VOLUMES = "/var/trainyard/shared"
