import numpy as np
import pytest
from conftest import completed
from sklearn.datasets import load_digits
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.models.digits import Model

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = IMAGES.reshape(-1, 8, 8)


def changed(values, index, value):
    values = values.copy()
    values[index] = value
    return values


def test_the_digits_keep_the_rules():
    Model().check(Model().load("sklearn://digits", {}))


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        ("schema: the arrays are", {"images": IMAGES}),
        ("schema: images are", {"images": IMAGES[:, :7], "labels": LABELS}),
        ("schema: images are", {"images": IMAGES, "labels": LABELS[1:]}),
        ("schema: images are", {"images": IMAGES, "labels": LABELS.astype(float)}),
        ("rows: there are 499", {"images": IMAGES[:499], "labels": LABELS[:499]}),
        ("missing: 1 images", {"images": changed(IMAGES, (3, 1, 1), np.nan), "labels": LABELS}),
        ("range: 1 images", {"images": changed(IMAGES, (3, 1, 1), -1), "labels": LABELS}),
        ("labels: found", {"images": IMAGES, "labels": changed(LABELS, 3, 10)}),
        ("labels: found", {"images": IMAGES[LABELS != 4], "labels": LABELS[LABELS != 4]}),
        (
            "balance: digit 4",
            {"images": IMAGES, "labels": changed(LABELS, np.flatnonzero(LABELS == 4)[9:], 5)},
        ),
    ],
)
def test_a_broken_rule_is_named(rule, columns):
    with pytest.raises(BadData, match=f"rule {rule}"):
        Model().check(columns)


def test_sources_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.npz").write_text("not a zip")
    with pytest.raises(BadData, match="cannot be read"):
        Model().load((tmp_path / "broken.npz").as_uri(), {})
    with pytest.raises(BadData, match="there is no file"):
        Model().load((tmp_path / "absent.npz").as_uri(), {})
    with pytest.raises(BadConfig, match="use sklearn://digits"):
        Model().load("sklearn://iris", {})


def test_dropout_is_a_parameter_with_the_bounds_of_the_dag():
    dropout = Model().params["dropout"]
    assert (dropout.default, dropout.low, dropout.high) == (0.25, 0, 0.9)


def test_the_split_is_stratified_complete_and_repeatable():
    columns = {"images": IMAGES, "labels": LABELS}
    splits = Model().preprocess(columns, completed(Model(), {}))
    again = Model().preprocess(columns, completed(Model(), {}))
    for name, values in splits.items():
        np.testing.assert_array_equal(values, again[name])
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    for split, share in shares.items():
        counts = np.bincount(splits[f"{split}_labels"])
        assert np.abs(counts - share * np.bincount(LABELS)).max() <= 1
    rows = np.concatenate([splits[f"{split}_inputs"] for split in shares]).reshape(-1, 64) * 16
    expected = IMAGES.reshape(-1, 64)
    assert sorted(map(bytes, rows.astype(np.uint8))) == sorted(map(bytes, expected.astype(np.uint8)))
    other = Model().preprocess(columns, completed(Model(), {"split_seed": 1}))
    assert not np.array_equal(splits["test_inputs"], other["test_inputs"])
