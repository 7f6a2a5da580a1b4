"""`DeployModelOperator`: deploy a registered model version, or keep the one that serves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from trainyard.platform import load_platform
from trainyard.serving.manifests import serving_of
from trainyard.triggerer.base import TriggererOperator, start_args

TRIGGER = "trainyard.serving.trigger.DeployModelTrigger"
# In addition to the roll-out: resolving the version, the smoke test and a roll-back.
OTHER_SECONDS = 900


class DeployModelOperator(TriggererOperator):
    """Serve one version of a model at `http://MODEL.NAMESPACE:PORT/invocations` (MLflow's protocol).

    It starts and ends in the triggerer. The server runs in the training image. It becomes ready after it has
    loaded the model and predicted the example that the model was registered with; until then, the earlier
    version serves. The task succeeds after a smoke prediction through the Service. If any step fails, the
    earlier Deployment is restored exactly, and the task fails with the cause, the server's last log lines and
    the XCom `failure`. If the version is served already, the task succeeds quickly.

    The XCom `return_value` has the keys `url`, `model`, `version` and `replaced_version`, each also an XCom.
    If the alias `champion` is set only after this task, it always names the version that is served.

    The strings `model`, `version` and `image` may be templates or outputs of other tasks. Of two deploys of
    one model at once, the later one wins and the earlier one fails with the cause `superseded`.

    Args:
        model: name in the registry.
        version: its number, or an alias such as `champion`.
        replicas: number of servers, if not the platform's `serving.replicas`.
        image: another image that has `python -m trainyard_serving`.
        timeout: how long the roll-out may take.
        kwargs: as for any operator.
    """

    template_fields = ("model", "version", "image")
    ui_color = "#cfe2f3"

    def __init__(
        self,
        *,
        model: str,
        version: Any,
        replicas: int | None = None,
        image: str | None = None,
        timeout: timedelta = timedelta(minutes=10),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        serving_of(load_platform())  # without serving, the DAG has an import error rather than failed runs
        self.model = model
        self.version = version
        self.replicas = replicas
        self.image = image
        self.timeout = timeout
        request = {"model": model, "version": version, "replicas": replicas, "image": image}
        self.start_trigger_args = start_args(
            TRIGGER,
            {**request, "timeout_seconds": int(timeout.total_seconds())},
            timeout + timedelta(seconds=OTHER_SECONDS),
        )
