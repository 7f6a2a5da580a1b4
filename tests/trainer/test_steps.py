"""The steps' side of the contract: results, exit codes, and what is found in MLflow afterwards."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Steps
from trainyard_contract import Env


def test_from_raw_data_to_a_scored_model(steps: Steps):
    validated = steps.run("validate", "sklearn://digits", params={"date": "2026-01-31"})
    assert validated.code == 0, validated.text
    assert validated.result["rows"] == 1797
    raw = steps.lake.as_uri() + "/raw/digits/date=2026-01-31/version="
    assert validated.result["dataset"] == raw + validated.result["sha256"][:12]

    preprocessed = steps.run("preprocess", validated.result["dataset"], params={"date": "2026-01-31"})
    assert preprocessed.code == 0, preprocessed.text
    processed = preprocessed.result["dataset"]
    assert "/processed/digits/date=2026-01-31/version=" in processed

    params, made_of = (
        {"epochs": 8, "date": "2026-01-31"},
        {Env.GIT_COMMIT: "0123456789abcdef", Env.DAG_VERSION: "d1"},
    )
    trained = steps.run("train", processed, params=params, **made_of)
    assert trained.code == 0, trained.text
    assert trained.result["epochs"] == 8
    assert trained.result["resumed_from_epoch"] == 0

    uri, later = {"model_uri": trained.result["model_uri"]}, {Env.GIT_COMMIT: "later", Env.DAG_VERSION: "d2"}
    evaluated = steps.run("evaluate", processed, params=uri, **later)
    assert evaluated.code == 0, evaluated.text
    assert evaluated.result["model_uri"] == trained.result["model_uri"]
    assert evaluated.result["f1_macro"] >= 0.9
    assert evaluated.result["accuracy"] >= 0.9
    assert evaluated.result["score"] == evaluated.result["f1_macro"]
    assert evaluated.result["metric"] == "f1_macro"

    (run,) = steps.runs()
    results = [step.result for step in (validated, preprocessed, trained, evaluated)]
    assert {result["mlflow_run_id"] for result in results} == {run.info.run_id}
    assert run.info.status == "FINISHED"
    assert run.data.params | {"model": "digits", "epochs": "8", "seed": "0"} == run.data.params
    assert run.data.metrics["f1_macro"] == evaluated.result["f1_macro"]
    made_of = ("0123456789abcdef", "d1")
    assert (run.data.tags["trainyard.git_commit"], run.data.tags["trainyard.dag_version"]) == made_of
    assert run.data.tags["trainyard.data_version"] == preprocessed.result["version"]

    (model,) = steps.models()
    assert model.name.startswith("digits-2026-01-31-0123456-lr0_001-bs64-e8-seed0-f1_macro-0_9")
    assert {metric.key for metric in model.metrics} == {"f1_macro", "accuracy"}
    artifacts = Path(model.artifact_location.removeprefix("file://"))
    examples = {"serving_input_example.json", "serving_output_example.json"}
    expected = {"MLmodel", "config.yaml", "metrics.json", "data"} | examples
    assert {file.name for file in artifacts.iterdir()} == expected
    config = yaml.safe_load((artifacts / "config.yaml").read_text())
    assert config["weights_sha256"] == trained.result["weights_sha256"]
    assert json.loads((artifacts / "metrics.json").read_text())["val_f1_macro"] == trained.result["score"]


def test_evaluate_finds_the_model_of_its_run_key_and_repeats_itself(steps: Steps, processed: str):
    trained = steps.run("train", processed, params={"epochs": 1})
    first = steps.run("evaluate", processed)
    again = steps.run("evaluate", processed)
    assert first.result == again.result
    assert first.result["model_uri"] == trained.result["model_uri"]
    assert steps.steps_of("f1_macro") == [0]


def test_a_given_mlflow_run_is_used(steps: Steps, processed: str):
    client = steps.client()
    run = client.create_run(client.create_experiment("mine"))
    ended = steps.run("train", processed, params={"epochs": 1}, MLFLOW_RUN_ID=run.info.run_id)
    assert ended.result["mlflow_run_id"] == run.info.run_id
    assert [found.info.run_id for found in steps.runs()] == [run.info.run_id]


def test_every_line_of_the_log_is_an_event(steps: Steps):
    ended = steps.run("validate", "sklearn://digits")
    assert all({"time", "level", "event"} <= event.keys() for event in ended.events)
    assert ended.event("step_done")["rows"] == 1797


def digits_file(path: Path, **changes) -> str:
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(path, **({"images": digits.images, "labels": digits.target} | changes))
    return path.as_uri()


def test_data_that_breaks_a_rule_is_refused(steps: Steps, tmp_path: Path):
    from sklearn.datasets import load_digits

    images = load_digits().images.copy()
    images[7, 0, 0] = 17
    ended = steps.run("validate", digits_file(tmp_path / "digits.npz", images=images))
    assert ended.code == 65
    assert "rule range" in ended.result["error"] and "row 7" in ended.result["error"]
    assert steps.runs()[0].info.status == "FAILED"
    assert not steps.lake.exists()


def test_damaged_data_is_refused(steps: Steps, tmp_path: Path):
    raw = steps.run("validate", digits_file(tmp_path / "digits.npz")).result["dataset"]
    file = Path(raw.removeprefix("file://")) / "images.npy"
    file.write_bytes(file.read_bytes()[:-8] + bytes(8)[::-1].replace(b"\0", b"\1"))
    ended = steps.run("preprocess", raw)
    assert ended.code == 65
    assert "the SHA-256 of images.npy" in ended.result["error"]


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        ("train", {"epchs": 3}, "unknown parameter 'epchs'"),
        ("train", {"epochs": "3"}, "parameter 'epochs' is '3'"),
        ("train", {"learning_rate": -1}, "parameter 'learning_rate' is -1"),
        ("train", {"model": "resnet"}, "parameter 'model' is 'resnet'; known: characters, churn, digits"),
        ("validate", {"date": "yesterday"}, "parameter 'date'"),
        ("train", ["epochs"], "--params must be a JSON object"),
        ("features", {}, "digits has no step features"),
        ("features", {"model": "churn"}, "churn has no step features"),
        ("sleep", {}, "invalid choice: 'sleep'"),
    ],
)
def test_bad_arguments_are_named(steps: Steps, step: str, params, message: str):
    ended = steps.run(step, "file:///data", params=params)
    assert ended.code == 64
    assert message in ended.result["error"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MLFLOW_TRACKING_URI": ""}, "MLFLOW_TRACKING_URI is not set"),
        ({"TRAINYARD_DEVICE": "tpu"}, "TRAINYARD_DEVICE is 'tpu'"),
        ({"CHECKPOINT_FREQ": "0"}, "CHECKPOINT_FREQ is '0'"),
        ({"TRAINYARD_BATCH_DIVISOR": "half"}, "TRAINYARD_BATCH_DIVISOR is 'half'"),
        ({"TRAINYARD_PARENT_RUN_KEY": "it's"}, "TRAINYARD_PARENT_RUN_KEY is"),
    ],
)
def test_a_wrong_environment_is_named(steps: Steps, environment, message: str):
    ended = steps.run("train", "file:///data", **environment)
    assert ended.code == 64
    assert message in ended.result["error"]


def test_cuda_that_is_not_there_is_said(steps: Steps, processed: str):
    ended = steps.run("train", processed, TRAINYARD_DEVICE="cuda", CUDA_VISIBLE_DEVICES="")
    assert ended.code == 64
    assert "no CUDA device" in ended.result["error"]


def test_evaluate_without_a_model_says_so(steps: Steps, processed: str):
    ended = steps.run("evaluate", processed)
    assert ended.code == 64
    assert "run the step train first" in ended.result["error"]


def test_train_needs_processed_data(steps: Steps):
    raw = steps.run("validate", "sklearn://digits").result["dataset"]
    ended = steps.run("train", raw)
    assert ended.code == 65
    assert "train needs a processed dataset" in ended.result["error"]
