"""Whatever interrupts a training, it ends with the weights and the metrics of one that was left alone."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from conftest import PARAMS, Ended, Steps

SLOW = PARAMS | {"epoch_seconds": 1}
METRICS = ("train_loss", "val_loss", "val_f1_macro")


def interrupt(
    steps: Steps, processed: str, number: signal.Signals, when: Callable[[dict], bool], frequency: str = "2"
) -> Ended:
    """Start training, and send the signal at the first event for which `when` is true.

    If the event is the end of an epoch, MLflow has heard of it by then.
    """
    steps.client()  # MLflow's import takes its time
    process = steps.start("train", processed, "--resume-if-exists", params=SLOW, CHECKPOINT_FREQ=frequency)
    lines = []
    for line in process.stdout:
        lines.append(line)
        event = json.loads(line)
        if when(event):
            while "epoch" in event and not is_logged(steps, event["epoch"]):
                time.sleep(0.05)
            process.send_signal(number)
            break
    return steps.end(process, lines)


def is_logged(steps: Steps, epoch: int) -> bool:
    """Whether MLflow has all metrics of an epoch: it writes one after the other."""
    return all(epoch in steps.steps_of(metric) for metric in METRICS)


def done(epoch: int) -> Callable[[dict], bool]:
    return lambda event: event["event"] == "epoch_done" and event["epoch"] == epoch


def finish(steps: Steps, processed: str, undisturbed: Ended) -> Ended:
    """Resume and check that nothing shows of the interruption."""
    ended = steps.run("train", processed, "--resume-if-exists", params=PARAMS, TRAINYARD_ATTEMPT="2")
    assert ended.code == 0, ended.text
    assert ended.result["weights_sha256"] == undisturbed.result["weights_sha256"]
    for metric in METRICS:
        assert ended.result[metric] == undisturbed.result[metric]
        assert steps.steps_of(metric) == list(range(1, PARAMS["epochs"] + 1))
    (run,) = steps.runs()
    assert run.info.run_id == ended.result["mlflow_run_id"]
    assert run.data.tags["trainyard.attempt"] == "2"
    (model,) = steps.models()
    assert model.model_uri == ended.result["model_uri"]
    return ended


def test_sigterm_loses_nothing(steps: Steps, processed: str, undisturbed: Ended):
    first = interrupt(steps, processed, signal.SIGTERM, done(3))
    assert first.code == 143
    assert first.result["exit_code"] == 143
    assert steps.runs()[0].info.status == "RUNNING"
    ended = finish(steps, processed, undisturbed)
    # No epoch that was whole is trained again, whatever CHECKPOINT_FREQ is.
    assert ended.result["resumed_from_epoch"] == first.event("preempted")["epoch"] >= 3
    assert ended.event("resumed")["batch"] == first.event("preempted")["batch"]


def test_sigterm_before_training_begins(steps: Steps, processed: str, undisturbed: Ended):
    first = interrupt(steps, processed, signal.SIGTERM, lambda event: event["event"] == "step_started")
    assert first.code == 143
    assert not list(steps.checkpoints.glob("*"))
    assert finish(steps, processed, undisturbed).result["resumed_from_epoch"] == 0


def test_sigkill_between_checkpoints(steps: Steps, processed: str, undisturbed: Ended):
    first = interrupt(steps, processed, signal.SIGKILL, done(6), frequency="5")
    assert first.code == -signal.SIGKILL
    # Epoch 6 is in MLflow but in no checkpoint: it is trained again and not logged again.
    assert steps.steps_of("val_loss")[-1] >= 6
    assert finish(steps, processed, undisturbed).result["resumed_from_epoch"] == 5


def test_damaged_checkpoint_falls_back(steps: Steps, processed: str, undisturbed: Ended):
    interrupt(steps, processed, signal.SIGKILL, done(5))
    before, newest = sorted(steps.checkpoints.glob("epoch-*"))[-2:]
    shard = newest / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    ended = finish(steps, processed, undisturbed)
    assert ended.event("checkpoint_damaged")["path"] == str(newest)
    assert ended.event("checkpoint_read")["path"] == str(before)
    assert ended.result["resumed_from_epoch"] >= 2


def test_a_finished_training_is_not_repeated(steps: Steps, processed: str, undisturbed: Ended):
    first = finish(steps, processed, undisturbed)
    again = finish(steps, processed, undisturbed)
    assert again.result["resumed_from_epoch"] == PARAMS["epochs"]
    assert again.result["model_uri"] == first.result["model_uri"]


def test_stopping_early_goes_on_later(steps: Steps, processed: str, undisturbed: Ended):
    """As successive halving does: some epochs, and the rest only for the best."""
    resume = "--resume-if-exists"
    first = steps.run("train", processed, resume, params=PARAMS | {"stop_after": 2}, CHECKPOINT_FREQ="5")
    assert first.code == 0, first.text
    assert first.result["epochs"] == 2
    assert first.result["metric"] == "f1_macro"
    assert first.result["score"] == first.result["val_f1_macro"]
    assert "model_uri" not in first.result
    assert not steps.models()
    ended = finish(steps, processed, undisturbed)
    assert ended.result["resumed_from_epoch"] == 2
    again = steps.run("train", processed, resume, params=PARAMS | {"stop_after": 2})
    assert again.result["score"] == first.result["score"]


def test_other_parameters_are_refused(steps: Steps, processed: str, tmp_path: Path):
    assert steps.run("train", processed, params={"epochs": 1, "seed": 1}).code == 0
    ended = steps.run("train", processed, "--resume-if-exists", params={"epochs": 1, "seed": 2})
    assert ended.code == 64
    assert "seed=1" in ended.result["error"] and "seed=2" in ended.result["error"]


def test_the_seed_decides_about_the_weights(steps: Steps, processed: str, undisturbed: Ended):
    ended = steps.run("train", processed, params=PARAMS | {"seed": 5})
    assert ended.code == 0
    assert ended.result["weights_sha256"] != undisturbed.result["weights_sha256"]
