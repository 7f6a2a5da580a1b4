"""What happens when MLflow does not respond, or its response is lost."""

import base64
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Steps
from trainyard_trainer import epoch_sender, tracking
from trainyard_trainer.errors import BadConfig, Temporary
from trainyard_trainer.settings import Settings

HISTORY = [{"epoch": epoch, "timestamp_ms": 1000 + epoch, "val_loss": 1 / epoch} for epoch in range(1, 5)]


@pytest.fixture
def tracker(steps: Steps, monkeypatch) -> tracking.Tracker:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", steps.tracking_uri)
    monkeypatch.setattr(epoch_sender, "PAUSE_SECONDS", 0.01)
    return tracking.Tracker(Settings.from_environment(), steps.run_key)


def lose_a_response(tracker: tracking.Tracker, monkeypatch) -> None:
    """Let the next log_batch do its work and then fail."""
    from mlflow.exceptions import MlflowException

    log_batch = tracker._client.log_batch
    failures = iter(["once"])

    def flaky(*args, **kwargs):
        log_batch(*args, **kwargs)
        if next(failures, None) is not None:
            raise MlflowException("the connection was reset")

    monkeypatch.setattr(tracker._client, "log_batch", flaky)


def wait_for(condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_epochs_are_logged_once(tracker, steps: Steps):
    for end in (1, 2, 4):
        tracker.log_epochs_meanwhile(HISTORY[:end])
    wait_for(lambda: len(steps.steps_of("val_loss")) == 4)
    tracker.log_epochs(HISTORY)
    assert steps.steps_of("val_loss") == [1, 2, 3, 4]


def test_short_epochs_share_a_call_and_none_is_left_out(tracker, steps: Steps, monkeypatch):
    monkeypatch.setattr(epoch_sender, "PAUSE_SECONDS", 60)
    tracker.log_epochs_meanwhile(HISTORY[:1])
    wait_for(lambda: steps.steps_of("val_loss") == [1])
    tracker.log_epochs_meanwhile(HISTORY[:3])
    tracker.log_epochs(HISTORY)
    assert steps.steps_of("val_loss") == [1, 2, 3, 4]


def test_training_does_not_wait_for_an_mlflow_that_hangs(tracker, steps: Steps, monkeypatch):
    """What comes meanwhile does not pile up; once MLflow answers, it is all there."""
    log_batch, answers, calls = tracker._client.log_batch, threading.Event(), []

    def hangs(*args, **kwargs):
        calls.append(len(kwargs["metrics"]))
        assert answers.wait(30)
        log_batch(*args, **kwargs)

    monkeypatch.setattr(tracker._client, "log_batch", hangs)
    for end in range(1, 5):
        tracker.log_epochs_meanwhile(HISTORY[:end])
        wait_for(lambda: calls)
    assert steps.steps_of("val_loss") == []
    answers.set()
    wait_for(lambda: len(steps.steps_of("val_loss")) == 4)
    assert calls == [1, 3]


def test_calls_become_rare_while_mlflow_does_not_respond(tracker, monkeypatch):
    from mlflow.exceptions import MlflowException

    times: list[float] = []

    def broken(*args, **kwargs):
        times.append(time.monotonic())
        raise MlflowException("the connection was reset")

    monkeypatch.setattr(epoch_sender, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(tracker._client, "log_batch", broken)
    tracker.log_epochs_meanwhile(HISTORY)
    wait_for(lambda: len(times) == 4)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[1] > 1.5 * pauses[0] and pauses[2] > 1.5 * pauses[1]


def test_what_mlflow_refuses_ends_the_training(tracker, steps: Steps):
    steps.client().delete_run(tracker.run_id)
    tracker.log_epochs_meanwhile(HISTORY[:1])

    def is_told() -> bool:
        try:
            tracker.log_epochs_meanwhile(HISTORY)
        except BadConfig as error:
            return "MLflow refused" in str(error)
        return False

    wait_for(is_told)


def test_the_client_needs_no_pandas_and_leaves_it_to_others(steps: Steps):
    code = f"import sys; from trainyard_trainer.tracking import connect; connect({steps.tracking_uri!r}); "
    code += "found = 'pandas' in sys.modules; import pandas; sys.exit(found)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_epochs_of_an_attempt_before_are_not_logged_again(tracker, steps: Steps, monkeypatch):
    tracker.log_epochs(HISTORY[:3])
    second = tracking.Tracker(Settings.from_environment(), steps.run_key)
    assert second.run_id == tracker.run_id
    second.log_epochs([*HISTORY[:2], HISTORY[2] | {"timestamp_ms": 5000}, HISTORY[3]])
    assert steps.steps_of("val_loss") == [1, 2, 3, 4]


def test_a_lost_response_makes_no_duplicate(tracker, steps: Steps, monkeypatch):
    lose_a_response(tracker, monkeypatch)
    tracker.log_epochs_meanwhile(HISTORY[:2])
    wait_for(lambda: len(steps.steps_of("val_loss")) == 2)
    tracker.log_epochs_meanwhile(HISTORY)
    wait_for(lambda: len(steps.steps_of("val_loss")) == 4)
    tracker.log_epochs(HISTORY)
    assert steps.steps_of("val_loss") == [1, 2, 3, 4]


def test_patience_bridges_a_failure(tracker, steps: Steps, monkeypatch):
    lose_a_response(tracker, monkeypatch)
    tracker.log_epochs(HISTORY)
    assert steps.steps_of("val_loss") == [1, 2, 3, 4]


def test_patience_ends(tracker, monkeypatch):
    from mlflow.exceptions import MlflowException

    def broken(*args, **kwargs):
        raise MlflowException("the connection was reset")

    monkeypatch.setattr(tracker, "_patience", 1.5)
    monkeypatch.setattr(tracker._client, "log_batch", broken)
    with pytest.raises(Temporary, match="MLflow does not respond: the connection was reset"):
        tracker.log_epochs(HISTORY)


def test_a_password_that_changes_is_read_anew(monkeypatch, tmp_path: Path):
    """The server has the new one already; the file gets it while the client tries again."""
    credentials = tmp_path / ".mlflow/credentials"
    credentials.parent.mkdir()
    text = "[mlflow]\nmlflow_tracking_username = trainer\nmlflow_tracking_password = {}\n"
    credentials.write_text(text.format("old"))
    monkeypatch.setenv("HOME", str(tmp_path))
    tried = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
            tried.append(login)
            self.send_response(200 if login == "trainer:new" else 401)
            self.end_headers()
            experiment = {"experiment_id": "7", "name": "a", "lifecycle_stage": "active"}
            body = json.dumps({"experiment": experiment}) if login == "trainer:new" else "not authenticated"
            self.wfile.write(body.encode())
            credentials.write_text(text.format("new"))

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = tracking.connect(f"http://127.0.0.1:{server.server_port}")
        experiment = tracking.with_retries(lambda: client.get_experiment_by_name("a"), 10)
        server.shutdown()
    assert experiment.experiment_id == "7"
    assert tried == ["trainer:old", "trainer:new"]


def test_two_runs_of_one_key_become_one(tracker, steps: Steps):
    client = steps.client()
    twice = client.create_run(steps.runs()[0].info.experiment_id, tags={"trainyard.run_key": steps.run_key})
    assert len(steps.runs()) == 2
    assert tracking.Tracker(Settings.from_environment(), steps.run_key).run_id == tracker.run_id
    assert len(steps.runs()) == 1
    # It may not delete the other.
    run = client.get_run(twice.info.run_id)
    assert (run.info.lifecycle_stage, run.info.status) == ("active", "KILLED")


def test_trials_that_start_together_have_one_parent(steps: Steps, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", steps.tracking_uri)
    monkeypatch.setenv("TRAINYARD_PARENT_RUN_KEY", "sweep")
    monkeypatch.setenv("TRAINYARD_FALLBACK", "cpu")
    monkeypatch.setenv("TRAINYARD_USER", "risk-team")
    monkeypatch.setenv("TRAINYARD_BATCH_DIVISOR", "2")
    settings = Settings.from_environment()
    tracking.Tracker(settings, "before").end()  # of threads that make it at once, some break the file store
    with ThreadPoolExecutor(9) as pool:
        trackers = list(pool.map(lambda number: tracking.Tracker(settings, f"trial-{number}"), range(9)))
    experiment = trackers[0].experiment_id
    (parent,) = steps.client().search_runs([experiment], "tags.`trainyard.run_key` = 'sweep'")
    for tracker in trackers:
        tracker.end()
        tags = steps.client().get_run(tracker.run_id).data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["trainyard.fallback"], tags["trainyard.batch_divisor"]) == ("cpu", "2")
    assert parent.info.status == "FINISHED"
    runs = [parent, steps.client().get_run(trackers[0].run_id)]
    assert [(run.info.user_id, run.data.tags["mlflow.user"]) for run in runs] == [("risk-team",) * 2] * 2


def test_a_parent_that_lost_a_race_is_left_by_the_end(steps: Steps, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", steps.tracking_uri)
    monkeypatch.setenv("TRAINYARD_PARENT_RUN_KEY", "sweep")
    trial = tracking.Tracker(Settings.from_environment(), "trial")
    older = steps.client().create_run(
        trial.experiment_id, start_time=1, tags={"trainyard.run_key": "sweep"}
    )  # by a clock that is behind
    trial.end()
    tags = steps.client().get_run(trial.run_id).data.tags
    assert tags["mlflow.parentRunId"] == older.info.run_id


def test_a_model_whose_upload_broke_off_is_replaced(tracker, steps: Steps, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_text("flavors: {}")
    tags = {"trainyard.run_key": steps.run_key}
    broken = steps.client().create_logged_model(tracker.experiment_id, "m", tracker.run_id, tags=tags)
    uri = tracker.log_model("m", tmp_path / "model", "hash", step=1, params={})
    assert uri != broken.model_uri
    assert tracker.log_model("m", tmp_path / "model", "hash", step=1, params={}) == uri
    assert tracker.latest_model() == uri
    states = {model.model_uri: str(model.status) for model in steps.models()}
    assert states == {uri: "READY", broken.model_uri: "FAILED"}


def test_another_value_of_a_parameter_is_refused(tracker):
    tracker.log_params({"seed": 1})
    tracker.log_params({"seed": 1, "epochs": 2})
    with pytest.raises(BadConfig, match="has seed=1, this step has seed=2"):
        tracker.log_params({"seed": 2})


def test_an_mlflow_that_is_not_there_is_temporary(steps: Steps):
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TRAINYARD_TRACKING_PATIENCE": "6"}
    ended = steps.run("validate", "sklearn://digits", **nowhere)
    assert ended.code == 75
    assert "MLflow does not respond" in ended.result["error"]
    assert ended.event("tracking_retried")
