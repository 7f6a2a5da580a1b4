"""What `airflow providers` says about the library: the entry point `apache_airflow_provider`."""

from __future__ import annotations

from typing import Any

NAME = "Trainyard"


def get_provider_info() -> dict[str, Any]:
    """What the library offers to DAG authors, as `airflow/provider_info.schema.json` wants it.

    The api-server shows links without this: a serialised task carries the names and XCom keys of its links.
    """
    return {
        "package-name": "trainyard",
        "name": NAME,
        "description": "Trains models on Kubernetes GPUs, started and ended by the triggerer",
        "integrations": [{"integration-name": NAME, "tags": ["software"]}],
        "operators": [{"integration-name": NAME, "python-modules": ["trainyard.operators"]}],
        "extra-links": [
            "trainyard.training.links.MLflowRunLink",
            "trainyard.training.links.WhyPendingLink",
        ],
    }
