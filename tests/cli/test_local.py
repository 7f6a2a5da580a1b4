"""What `./scripts/run --local` shows of Airflow's log."""

from __future__ import annotations

from trainyard_cli.local import said

LOG = """\
2026-11-28T00:24:12.050609Z [info     ] Filling up the DagBag [airflow.dag_processing.dagbag] loc=dagbag.py:1
2026-11-28T00:24:13.066407Z [info     ] [DAG TEST] starting task_id=data.load map_index=-1 [airflow] loc=d:1
2026-11-28T00:24:14.123147Z [info     ] ::endgroup::                   [task] loc=task_runner.py:2232
2026-11-28T00:24:15.053745Z [info     ] epoch_done epoch=1 [trainyard.training.trigger] loc=p.py:2
2026-11-28T00:24:16.053745Z [info     ] local v1 is now challenger
metrics: f1_macro 0.7012 [trainyard.alerts.tasks] loc=tasks.py:43
2026-11-28T00:24:17.053745Z [error    ] Task failed [airflow.sdk] loc=task_runner.py:1
Traceback (most recent call last):
  ...
2026-11-28T00:24:18.497442Z [info     ] ::endgroup::                   [task] loc=task_runner.py:2379
what is no log
"""


def test_it_shows_what_tasks_say_and_errors() -> None:
    assert list(said(LOG.splitlines(keepends=True))) == [
        "00:24:13 data.load",
        "00:24:15   epoch_done epoch=1",
        "00:24:16   local v1 is now challenger",
        "metrics: f1_macro 0.7012",
        "00:24:17   Task failed",
        "Traceback (most recent call last):",
        "  ...",
    ]
