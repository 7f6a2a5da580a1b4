"""The step clean: what it gives back, and what it never touches."""

import os
import time
from pathlib import Path

import pytest
from conftest import Ended, Steps

DAY = 86_400


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkpoints volume with the steps' run, a trial of it, and runs that only begin with its name."""
    root = tmp_path / "volume"
    for name in ("", "__trial-3", "__tuning.train-0", "-2", "__rerun"):
        leave(root / f"digits_training__manual-1{name}")
    return root


def leave(directory: Path, days: float = 0) -> Path:
    """Let a run have written its files, so many days ago."""
    for name in ("epoch-000002-batch-000000/manifest.json", "model/MLmodel", "evaluation/evaluation.json"):
        write(directory / name, b"12345", days)
    return directory


def write(path: Path, content: bytes, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - days * DAY
    for one in (path, path.parent, path.parent.parent):
        os.utime(one, (then, then))
    return path


def names(root: Path) -> list[str]:
    return sorted(one.name for one in root.iterdir())


def clean(steps: Steps, root: Path, **params) -> Ended:
    return steps.run("clean", root.as_uri(), params=params)


def test_a_finished_run_and_its_trials_go_and_no_others(steps: Steps, root: Path):
    ended = clean(steps, root, finished=True)
    assert ended.code == 0, ended.text
    assert names(root) == ["digits_training__manual-1-2", "digits_training__manual-1__rerun"]
    assert ended.result["removed"] == 3
    assert ended.result["removed_files"] == 9
    assert ended.result["removed_bytes"] == 45
    assert steps.runs() == []  # it leaves no trace in MLflow
    assert clean(steps, root, finished=True).result["removed"] == 0


def test_nothing_was_ever_written(steps: Steps, tmp_path: Path):
    assert clean(steps, tmp_path / "nothing", finished=True).code == 0


def test_a_dry_run_only_says_what_it_would_remove(steps: Steps, root: Path):
    before = names(root)
    ended = clean(steps, root, finished=True, dry_run=True)
    assert (ended.result["removed"], ended.result["dry_run"]) == (3, True)
    assert names(root) == before
    assert ended.event("would_remove")["path"].startswith(str(root))


def test_links_are_not_followed(steps: Steps, root: Path, tmp_path: Path):
    elsewhere = leave(tmp_path / "elsewhere")
    (root / "digits_training__manual-1__trial-9").symlink_to(elsewhere)
    (root / "digits_training__manual-1" / "link").symlink_to(elsewhere)
    assert clean(steps, root, finished=True).code == 0
    assert len(list(elsewhere.rglob("*"))) == 6
    assert "digits_training__manual-1__trial-9" in names(root)


def test_a_run_that_failed_keeps_what_it_resumes_from(steps: Steps, processed: str):
    steps.checkpoints = steps.checkpoints / steps.run_key
    environment = {"CHECKPOINT_DIR": str(steps.checkpoints), "CHECKPOINT_FREQ": "1"}
    assert steps.run("train", processed, params={"epochs": 3}, **environment).code == 0
    first, second, third = sorted(steps.checkpoints.glob("epoch-*"))
    (third / "manifest.json").unlink()  # killed before it was complete
    left = write(steps.checkpoints / ".tmp-old", b"", days=1)
    fresh = write(steps.checkpoints / ".tmp-new", b"")
    ended = clean(steps, steps.checkpoints.parent)
    assert ended.code == 0, ended.text
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)
    assert (left.exists(), fresh.exists()) == (False, True)
    assert ended.result["removed_files"] == 4  # the three of the first, and what was left
    (run,) = steps.runs()
    assert run.info.status == "FINISHED"  # as train left it
    again = steps.run("train", processed, "--resume-if-exists", params={"epochs": 3}, **environment)
    assert again.result["resumed_from_epoch"] == 2


def registered(steps: Steps, run_key: str, *, version_key: str = "") -> None:
    """Register a version of a model, from a run with that key."""
    client = steps.client()
    experiment = client.get_experiment_by_name("e") or client.get_experiment(client.create_experiment("e"))
    run = client.create_run(experiment.experiment_id, tags={"trainyard.run_key": run_key})
    client.set_terminated(run.info.run_id)
    client.create_registered_model(run_key)
    tags = {"trainyard.run_key": version_key} if version_key else {}
    client.create_model_version(run_key, source="file:///x", run_id=run.info.run_id, tags=tags)


def test_old_directories_go_but_for_what_registered_models_and_running_trainings_need(
    steps: Steps, tmp_path: Path
):
    root = tmp_path / "volume"
    old = ("unknown", "by-run", "by-version__trial-1", "trained", "killed", "lost+found")
    for name in old:
        leave(root / name, days=40)
    leave(root / "running", days=6)
    leave(root / "young", days=2)
    write(root / "resumed" / "model" / "MLmodel", b"1", days=40)
    write(root / "resumed" / "epoch-000001-batch-000000" / "manifest.json", b"1", days=1)
    (root / "a-link").symlink_to(leave(tmp_path / "elsewhere", days=40))
    write(root / "a-file", b"1", days=40)
    left = write(root / "young" / ".tmp-checkpoint", b"12", days=2)
    registered(steps, "by-run")
    registered(steps, "another", version_key="by-version")
    client = steps.client()
    experiment = client.get_experiment_by_name("e").experiment_id
    for run_key in ("running", "killed"):  # MLflow takes both for running
        client.create_run(experiment, tags={"trainyard.run_key": run_key})
    trained = client.create_run(experiment, tags={"trainyard.run_key": "trained"})
    client.set_terminated(trained.info.run_id)

    ended = clean(steps, root, older_than_days=3)
    assert ended.code == 0, ended.text
    kept = ["a-file", "a-link", "by-run", "by-version__trial-1", "resumed", "running", "young"]
    assert names(root) == kept
    counts = {key: value for key, value in ended.result.items() if key.startswith(("removed", "kept"))}
    assert counts == {
        **{"removed": 4, "removed_files": 13, "removed_bytes": 62},
        **{"kept": 2, "kept_registered": 2, "kept_running": 1},
    }
    assert not left.exists()


def test_nothing_goes_while_mlflow_does_not_answer(steps: Steps, tmp_path: Path):
    directory = leave(tmp_path / "volume" / "old", days=40)
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TRAINYARD_TRACKING_PATIENCE": "1"}
    ended = steps.run("clean", directory.parent.as_uri(), params={"older_than_days": 0}, **nowhere)
    assert ended.code == 75, ended.text
    assert directory.exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"older_than_days": -2}, "use -1 to 36500"),
        ({"finished": "yes"}, "use true or false"),
        ({"dry_run": 1}, "use true or false"),
    ],
)
def test_bad_params(steps: Steps, root: Path, params, message: str):
    ended = clean(steps, root, **params)
    assert ended.code == 64
    assert message in ended.text
