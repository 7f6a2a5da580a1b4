"""`python -m trainyard.reconciler`: look again and again, until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from trainyard.kube.client import KubeError
from trainyard.kube.jobs import JobKube
from trainyard.platform import Platform, PlatformError, load_platform
from trainyard.reconciler.database import CONNECTION, Database
from trainyard.reconciler.reconciler import Reconciler

INTERVAL_SECONDS = 10.0
LOOK_SECONDS = 60
HEARTBEAT = Path("/tmp/looked")  # touched at every look, for the liveness probe
log = logging.getLogger("trainyard.reconciler")


async def run(seconds: float, heartbeat: Path) -> None:
    """Look every `seconds` at each namespace of training.

    What does not answer is asked again at the next look.

    Raises:
        PlatformError: the platform file is missing, wrong or an older chart's.
    """
    reconciler = Reconciler(Database().states)
    log.info("looking every %g s at namespace %s", seconds, ", ".join(load_platform().training_namespaces))
    while True:
        platform = load_platform()  # anew, as its ConfigMap may have changed
        for namespace in platform.training_namespaces:
            heartbeat.touch()  # each time: many that do not answer take long, and are no reason to restart
            await _look(reconciler, namespace, platform)
        await asyncio.sleep(seconds)


async def _look(reconciler: Reconciler, namespace: str, platform: Platform) -> None:
    """Look at one namespace; whatever it answers, the others get their turn."""
    try:
        async with asyncio.timeout(LOOK_SECONDS), JobKube(namespace) as kube:
            await reconciler.look(kube, platform)
    except (KubeError, SQLAlchemyError, TimeoutError) as error:
        told = (str(error) or repr(error)).strip().splitlines()[0]
        log.warning("this look at namespace %s found nothing out: %s", namespace, told)


def main() -> int:
    """Run until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="trainyard.reconciler", description=__doc__)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS, help="seconds between two looks")
    parser.add_argument("--heartbeat", type=Path, default=HEARTBEAT, help="file to touch at every look")
    arguments = parser.parse_args()
    if not os.environ.get(CONNECTION):
        parser.error(f"the variable {CONNECTION} is not set; it is the URL of Airflow's database")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        asyncio.run(run(arguments.interval, arguments.heartbeat))
    except PlatformError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
