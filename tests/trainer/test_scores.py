import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from trainyard_trainer import scores


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_many_classes_are_scored_as_scikit_learn_does(random):
    labels = random.integers(0, 9, 500)  # class 9 occurs in neither
    predictions = np.where(random.random(500) < 0.7, labels, random.integers(0, 9, 500))
    found = scores.metrics(labels, np.eye(10)[predictions])
    assert found.keys() == {"accuracy", "f1_macro"}
    expected = f1_score(labels, predictions, average="macro", labels=range(10), zero_division=0)
    assert found["f1_macro"] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))


def test_two_classes_are_also_scored_over_all_thresholds(random):
    labels = (random.random(500) < 0.1).astype(int)
    likely = (random.random(500) + labels).clip(0, 1.4) / 1.5
    found = scores.metrics(labels, np.column_stack([1 - likely, likely]))
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, likely))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, likely))
