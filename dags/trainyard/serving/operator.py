"""`DeployModelOperator`: put a registered model version into service, or leave what serves as it is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from trainyard.platform import load_platform
from trainyard.serving.manifests import serving_of
from trainyard.triggerer.base import TriggererOperator, start_args

TRIGGER = "trainyard.serving.trigger.DeployModelTrigger"
# Beside the roll-out itself: the version's look-up, the proof, and a roll-back.
OTHER_SECONDS = 900


class DeployModelOperator(TriggererOperator):
    """Serve one version of a model under `http://MODEL.NAMESPACE:PORT/invocations` (MLflow's protocol).

    It starts and ends in the triggerer. The server runs in the image that trains, and gets ready only when
    the model has loaded and answers the example that it was registered with; the version before goes on
    serving until then. The task succeeds after one more prediction through the Service. When any of this
    fails, what served before is put back exactly as it was, and the task fails with the cause, the server's
    last log lines and the XCom `failure`. Deploying what serves already is a quick success.

    The XCom `return_value`, and each of its keys: `url`, `model`, `version`, `replaced_version`. Give the
    alias `champion` only after this task, and it always names what serves.

    Text in `model`, `version` and `image` may hold templates and outputs of other tasks. Of two deploys of
    one model at once, the later wins, and the earlier fails and says so.

    Args:
        model: name in the registry.
        version: its number, or an alias such as `champion`.
        replicas: servers, if other than the platform's `serving.replicas`.
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
        serving_of(load_platform())  # a platform that serves nothing is an import error, not a failed run
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
