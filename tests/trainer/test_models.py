"""Every model on its made-up or real data, as the pipelines run it."""

import csv
import json
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Steps
from trainyard_trainer import lake, models
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.feature_table import FeatureTable
from trainyard_trainer.models import fraud
from trainyard_trainer.networks import Factors, Standardize, Transformer

DATE = {"date": "2026-03-01"}


def artifact(steps: Steps) -> Path:
    (model,) = steps.models()
    return Path(model.artifact_location.removeprefix("file://"))


def test_fraud_from_delivery_to_predictions(steps: Steps):
    params = DATE | {"model": "fraud"}
    delivered = steps.run("generate", "generator://transactions?rows=6000&seed=3", params=DATE)
    assert delivered.code == 0, delivered.text
    assert {file.name for file in steps.output.iterdir()} == {"transactions.csv", "_SUCCESS"}
    raw = steps.run("validate", steps.output.as_uri(), params=params).result["dataset"]
    processed = steps.run("preprocess", raw, params=params)
    assert processed.result["rows"] == 5940  # each once
    features = steps.run("features", raw, params=params).result["dataset"]

    params |= {"features_uri": features, "epochs": 6}
    trained = steps.run("train", processed.result["dataset"], params=params)
    assert trained.code == 0, trained.text
    assert trained.result["metric"] == "average_precision"
    assert trained.result["score"] == trained.result["val_average_precision"]
    evaluated = steps.run("evaluate", processed.result["dataset"], params=params)
    assert evaluated.result["score"] == evaluated.result["average_precision"] > 0.15  # by chance: 0.02
    assert {"roc_auc", "f1_macro", "accuracy"} <= evaluated.result.keys()

    request = json.loads((artifact(steps) / "serving_input_example.json").read_text())
    answer = json.loads((artifact(steps) / "serving_output_example.json").read_text())
    network = torch.jit.load(str(artifact(steps) / "data/model.pth"))
    assert torch.allclose(network(torch.tensor(request["inputs"])), torch.tensor(answer["predictions"]))
    assert np.sum(answer["predictions"], axis=1) == pytest.approx(1)

    predicted = steps.run("predict", raw, params=params | {"model_version": "7"})
    assert predicted.code == 0, predicted.text
    directory = steps.output / "predictions/fraud/date=2026-03-01/model_version=7"
    assert predicted.result["output"] == directory.as_uri().replace("%3D", "=")
    content = (directory / "predictions.csv").read_bytes()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(1, 5941))
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["files"] == {"predictions.csv": predicted.result["sha256"]}
    assert manifest["model_version"] == "7"
    again = steps.run("predict", processed.result["dataset"], params=params | {"model_version": "7"})
    assert again.result["sha256"] == predicted.result["sha256"]
    assert (directory / "predictions.csv").read_bytes() == content


@pytest.mark.parametrize(
    ("model", "source", "least"),
    [
        ("churn", "generator://customers?rows=1500", 0.75),
        ("recommendation", "generator://ratings?rows=5000", 0.6),
        ("tumours", "sklearn://breast_cancer", 0.95),
    ],
)
def test_the_others_learn(steps: Steps, model: str, source: str, least: float):
    params = DATE | {"model": model}
    raw = steps.run("validate", source, params=params).result["dataset"]
    processed = steps.run("preprocess", raw, params=params).result["dataset"]
    trained = steps.run("train", processed, params=params)
    assert trained.code == 0, trained.text
    assert trained.result["metric"] == "roc_auc"
    assert least < trained.result["score"] < 1


def test_a_residual_network_learns(steps: Steps):
    params = DATE | {"model": "residual"}
    raw = steps.run("validate", "sklearn://digits", params=params).result["dataset"]
    processed = steps.run("preprocess", raw, params=params).result["dataset"]
    trained = steps.run("train", processed, params=params | {"epochs": 3, "learning_rate": 0.003})
    assert trained.code == 0, trained.text
    assert 0.8 < trained.result["score"] < 1


def test_a_transformer_learns_what_comes_next(steps: Steps):
    text = steps.lake / "alphabet.txt"
    steps.lake.mkdir(exist_ok=True)
    text.write_text(string.printable * 400)
    params = DATE | {"model": "characters"}
    raw = steps.run("validate", text.as_uri(), params=params | {"max_repeated": 1.0}).result["dataset"]
    processed = steps.run("preprocess", raw, params=params).result["dataset"]
    small = {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0, "learning_rate": 0.01, "epochs": 3}
    trained = steps.run("train", processed, params=params | small)
    assert trained.code == 0, trained.text
    assert trained.result["metric"] == "accuracy"
    assert trained.result["score"] > 0.95
    evaluated = steps.run("evaluate", processed, params=params)
    assert evaluated.code == 0, evaluated.text
    assert evaluated.result["accuracy"] > 0.95
    answers = np.array(
        json.loads((artifact(steps) / "serving_output_example.json").read_text())["predictions"]
    )
    assert answers.shape == (3, 128, 64)
    assert answers.sum(axis=1) == pytest.approx(1)


def test_a_transformer_looks_only_back():
    network = Transformer(symbols=8, context=6, width=8, layers=2, heads=2, dropout=0.0)
    one, other = network(torch.tensor([[1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 7, 7, 7]]))
    assert one.shape == (8, 6)
    assert torch.allclose(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3:], other[:, 3:])
    shorter = network(torch.tensor([[1.0, 2, 3]]))
    assert torch.allclose(shorter[0], one[:, :3], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "params", "code", "told"),
    [
        (b"short", {}, 65, "rule rows: the text has 5 characters"),
        (b"a" * 1000, {}, 65, "rule rows: the text has about 960 characters, must be 32000"),
        (b"\xff" * 1000, {}, 65, "rule format"),
        (b"ab" * 20_000, {"split": "random"}, 64, "splits by the place in the text alone"),
        (b"ab" * 20_000, {}, 65, "rule leakage"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused(steps: Steps, content, params, code, told):
    text = steps.lake / "text.txt"
    steps.lake.mkdir(exist_ok=True)
    text.write_bytes(content)
    ended = steps.run("validate", text.as_uri(), params=DATE | {"model": "characters"} | params)
    assert (ended.code, told in ended.result["error"]) == (code, True), ended.result


def test_the_width_of_a_transformer_is_a_multiple_of_its_heads():
    params = {"width": 10, "heads": 4, "layers": 1, "dropout": 0.0}
    with pytest.raises(BadConfig, match="parameter 'width' is 10, which 4 heads cannot share"):
        models.load("characters").network(np.zeros((1, 64), np.float32), params)


def test_an_empty_delivery_is_refused(steps: Steps):
    steps.output.mkdir()
    (steps.output / "transactions.csv").touch()
    ended = steps.run("validate", steps.output.as_uri(), params=DATE | {"model": "fraud"})
    assert ended.code == 65
    assert "rule empty" in ended.result["error"]


def test_a_version_that_is_no_name_is_refused(steps: Steps):
    params = {"model": "churn", "model_uri": "models:/churn/1", "model_version": "../1"}
    ended = steps.run("predict", "file:///data", params=params)
    assert ended.code == 64
    assert "model_version" in ended.result["error"]


def test_every_model_names_a_metric_and_its_steps():
    for name in models.names():
        model = models.load(name)
        assert model.name == name
        assert model.metric in {"accuracy", "f1_macro", "average_precision", "roc_auc"}
        assert ("features" in model.steps) == (name == "fraud")


def transactions(**changes):
    columns = {
        "transaction_id": np.array([1, 2, 2, 3, 4]),
        "card_id": np.array([5, 6, 6, 5, 5]),
        "hours": np.array([1.0, 2.0, 2.0, 3.0, 3.5]),
        "amount": np.array([10.0, 20.0, 20.0, np.nan, 40.0]),
    }
    return columns | changes


def test_features_look_only_back():
    found = fraud.Model().features(transactions())
    assert found["ids"].tolist() == [1, 2, 3, 4]
    surplus, gap, earlier = found["features"].T
    np.testing.assert_allclose(surplus, [np.nan, np.nan, np.nan, np.log(41 / 11)], rtol=1e-6)
    np.testing.assert_allclose(gap, np.log([720.1, 720.1, 2.1, 0.6]), rtol=1e-6)
    np.testing.assert_allclose(earlier, np.log([1, 1, 2, 3]), rtol=1e-6)
    later = fraud.Model().features(transactions(amount=np.array([10.0, 20.0, 20.0, np.nan, 99.0])))
    np.testing.assert_array_equal(found["features"][:3], later["features"][:3])


def test_features_are_joined_by_id(tmp_path):
    columns = {"ids": np.array([4, 2, 9]), "features": np.array([[4.0], [2.0], [9.0]], dtype=np.float32)}
    uri = lake.write(tmp_path.as_uri(), "features", "fraud", "2026-03-01", columns, rows=3, parent="").uri
    inputs = np.array([[0.9], [0.4]], dtype=np.float32)
    joined = FeatureTable(uri).join(inputs, np.array([9, 4]))
    np.testing.assert_array_equal(joined, np.array([[0.9, 9], [0.4, 4]], dtype=np.float32))
    with pytest.raises(BadData, match=r"rule join: .* no features for 1 of 2 rows, the first has id 5"):
        FeatureTable(uri).join(inputs, np.array([9, 5]))
    assert FeatureTable("").join(inputs, np.array([1, 2])) is inputs


def test_a_missing_value_counts_as_the_mean():
    layer = Standardize(np.array([[1, 5], [3, 5], [np.nan, 5]], dtype=np.float32))
    answers = layer(torch.tensor([[3.0, 5.0], [float("nan"), 5.0]]))
    assert answers.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_strangers_get_the_mean_recommendation():
    network = Factors(users=3, items=2, size=4, dropout=0.0)
    assert network(torch.tensor([[99.0, 99.0]])).tolist() == [[0.0, 0.0]]
