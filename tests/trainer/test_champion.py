"""Evaluate scores the champion and the candidate on the same rows."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Steps
from trainyard_trainer import artifact, lake, params
from trainyard_trainer.context import Context
from trainyard_trainer.distributed import Worker
from trainyard_trainer.errors import Temporary
from trainyard_trainer.models.digits import Model
from trainyard_trainer.preemption import Preemption
from trainyard_trainer.settings import Settings
from trainyard_trainer.steps import evaluate
from trainyard_trainer.tracking import Tracker

KNOWN = {**params.COMMON, **Model().params}


@dataclass
class Store:
    """An MLflow store with a trained and evaluated model in it."""

    directory: Path
    trained: str  # the model's URI
    artifacts: Path

    def steps(self, run_key: str) -> Steps:
        return Steps(self.directory, self.directory / "lake", run_key)

    def register(self, name: str, source: Path, *, alias: str = "champion") -> None:
        client = self.steps("").client()
        client.create_registered_model(name)
        version = client.create_model_version(name, source=source.as_uri(), await_creation_for=0)
        client.set_registered_model_alias(name, alias, version.version)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, processed: str) -> Store:
    directory = tmp_path_factory.mktemp("store")
    steps = Steps(directory, directory / "lake", "the-champions-run")
    trained = steps.run("train", processed, params={"epochs": 2}).result["model_uri"]
    steps.run("evaluate", processed)
    (model,) = steps.models()
    return Store(directory, trained, Path(model.artifact_location.removeprefix("file://")))


@pytest.fixture
def step(store: Store, processed: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the step in this process."""

    def _step(run_key: str, **given: str) -> dict[str, Any]:
        steps = store.steps(run_key)
        for name, value in steps.environment.items():
            monkeypatch.setenv(name, value)
        settings = Settings.from_environment()
        context = Context(
            run_key=run_key,
            dataset=processed,
            output=steps.output.as_uri(),
            params=params.complete(given, KNOWN),
            known_params=KNOWN,
            resume=False,
            model=Model(),
            settings=settings,
            tracker=Tracker(settings, run_key),
            preemption=Preemption(),
            worker=Worker(),
        )
        return evaluate.run(context)

    return _step


def untrained(directory: Path, processed: str) -> str:
    """The URI of a model with random weights."""
    torch.manual_seed(0)
    inputs = lake.read(processed)[0]["train_inputs"]
    network = Model().network(inputs, params.complete({}, KNOWN))
    artifact.save(network, directory, example=torch.from_numpy(inputs[:1]), metrics={}, config={})
    return directory.as_uri()


def test_the_champion_is_scored_on_the_candidates_rows(store: Store, step, processed: str, tmp_path: Path):
    store.register("digits", store.artifacts)
    (before,) = store.steps("the-champions-run").runs()
    candidate = store.steps("candidate")
    given = {"champion": "digits", "model_uri": untrained(tmp_path / "model", processed)}
    evaluated = candidate.run("evaluate", processed, params=given)
    assert evaluated.code == 0, evaluated.text
    f1, accuracy = before.data.metrics["f1_macro"], before.data.metrics["accuracy"]
    champion = {"version": "1", "score": f1, "f1_macro": f1, "accuracy": accuracy}
    assert evaluated.result["champion"] == champion
    assert evaluated.result["f1_macro"] < f1
    assert evaluated.event("champion_evaluated")["champion"] == "digits"
    assert json.loads((candidate.output / "evaluation.json").read_text())["champion"] == champion
    assert len(json.dumps(evaluated.result)) < 1500

    assert step("candidate", **given)["champion"] == champion  # a step may be repeated
    (run,) = candidate.runs()
    assert run.data.metrics["champion_f1_macro"] == f1
    assert candidate.steps_of("champion_f1_macro") == [0]
    (after,) = store.steps("the-champions-run").runs()
    assert after.to_dictionary() == before.to_dictionary()
    (model,) = candidate.models()
    assert {metric.key for metric in model.metrics} == {"f1_macro", "accuracy"}


def test_a_candidate_that_is_the_champion_has_its_score(store: Store, step):
    store.register("itself", store.artifacts)
    result = step("the-champions-run", champion="itself")
    assert result["champion"]["score"] == result["score"]


def test_without_a_champion_there_is_none_to_score(store: Store, step):
    store.register("challenged", store.artifacts, alias="challenger")
    for name in ("", "unheard-of", "challenged"):
        assert "champion" not in step("first", champion=name, model_uri=store.trained)


def gone(directory: Path) -> None:
    shutil.rmtree(directory)


def damaged(directory: Path) -> None:
    (directory / "data/model.pth").write_bytes(b"no model")


def of_other_inputs(directory: Path) -> None:
    artifact.save(torch.nn.Linear(7, 10), directory, example=torch.zeros(1, 7), metrics={}, config={})


def of_other_classes(directory: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    artifact.save(network, directory, example=torch.zeros(1, 1, 8, 8), metrics={}, config={})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (gone, "does not exist"),
        (damaged, "cannot be read"),
        (of_other_inputs, "shapes cannot be multiplied"),
        (of_other_classes, "its predictions have the shape (90, 3), not 90 rows by 10 classes"),
    ],
)
def test_a_champion_that_cannot_be_scored_fails_nothing(
    store: Store, step, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable, reason: str
):
    directory = tmp_path / "model"
    shutil.copytree(store.artifacts, directory)
    store.register(harm.__name__, directory)
    harm(directory)
    champion = step(harm.__name__, champion=harm.__name__, model_uri=store.trained)["champion"]
    assert champion.keys() == {"version", "error"}
    assert reason in champion["error"] and "\n" not in champion["error"]
    (record,) = [record for record in caplog.records if record.message == "champion_not_evaluated"]
    assert record.levelno == logging.WARNING
    (run,) = store.steps(harm.__name__).runs()
    assert "champion_f1_macro" not in run.data.metrics


def test_an_mlflow_that_does_not_answer_is_worth_another_try(
    store: Store, step, monkeypatch: pytest.MonkeyPatch
):
    store.register("unreachable", store.artifacts)
    download = Tracker.download_model

    def cut_off(tracker: Tracker, model_uri: str, directory: Path) -> Path:
        if "unreachable" in model_uri:
            raise Temporary("MLflow does not respond")
        return download(tracker, model_uri, directory)

    monkeypatch.setattr(Tracker, "download_model", cut_off)
    with pytest.raises(Temporary):
        step("cut-off", champion="unreachable", model_uri=store.trained)
