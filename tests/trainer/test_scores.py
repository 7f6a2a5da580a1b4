import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from trainyard_trainer import scores
from trainyard_trainer.errors import BadConfig


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


@pytest.mark.parametrize("digits", [None, 1, 0])  # fewer digits: many or nearly all scores are equal
def test_two_classes_are_also_scored_over_all_thresholds(random, digits):
    labels = (random.random(500) < 0.1).astype(int)
    likely = (random.random(500) + labels).clip(0, 1.4) / 1.5
    likely = likely if digits is None else likely.round(digits)
    found = scores.metrics(labels, np.column_stack([1 - likely, likely]))
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, likely))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, likely))


@pytest.mark.parametrize("label", [0, 1])
def test_where_a_class_is_absent_nothing_is_divided_by_zero(label):
    found = scores.metrics(np.full(3, label), np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
    assert (found["average_precision"], found["roc_auc"]) == (label, 0)


def test_a_training_that_diverged_has_no_score():
    with pytest.raises(BadConfig, match="learning_rate"):
        scores.metrics(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, np.nan]]))


def test_scoring_does_not_import_scikit_learn():
    code = "import sys; from trainyard_trainer import scores; import numpy as np; "
    code += "scores.metrics(np.array([0, 1]), np.eye(2)); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
