"""Splits by time and by group, and which one the parameters choose."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import Steps, completed
from trainyard_contract import SPLIT_KINDS
from trainyard_trainer import models
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.splits import SPLITS, by_group, by_key, by_time

DATE = {"date": "2026-03-01"}


def split_of(name: str, source: str, **given: str):
    """The raw columns, the clean rows and the split of a model."""
    model = models.load(name)
    params = completed(model, DATE | given)
    columns = model.load(source, params)
    rows = model.clean(columns)
    return columns, rows, model.split(columns, rows, params)


def test_by_time_training_comes_before_validation_before_test():
    times = np.random.default_rng(0).permutation(1000)
    rows = by_time(times)
    assert [len(rows[name]) for name in SPLITS] == [700, 150, 150]
    assert times[rows["train"]].max() < times[rows["validation"]].min()
    assert times[rows["validation"]].max() < times[rows["test"]].min()
    assert sorted(np.concatenate(list(rows.values()))) == list(range(1000))
    assert all((np.diff(chosen) > 0).all() for chosen in rows.values())


def test_rows_of_one_moment_stay_together():
    times = np.repeat([3, 1, 2], [20, 40, 40])  # the cuts are in 2 and in 3
    rows = by_time(times)
    assert {name: set(times[rows[name]]) for name in SPLITS} == {
        "train": {1},
        "validation": {2},
        "test": {3},
    }


def test_by_group_a_group_is_in_one_split_and_stays_there_in_later_data():
    groups = np.random.default_rng(0).integers(0, 1000, 20_000)
    rows = by_group(groups, seed=0)
    owned = {name: set(groups[rows[name]].tolist()) for name in SPLITS}
    assert sum(map(len, owned.values())) == len(set.union(*owned.values())) == 1000
    for name, share in SPLITS.items():
        assert len(rows[name]) == pytest.approx(share * 20_000, rel=0.2)
    later = np.arange(500, 1500)
    again = by_group(later, seed=0)
    assert all(set(later[again[name]]) & set(range(1000)) <= owned[name] for name in SPLITS)
    assert not np.array_equal(by_group(groups, seed=1)["test"], rows["test"])


def test_fraud_is_split_by_time_unless_the_parameters_say_otherwise():
    columns, rows, split = split_of("fraud", "generator://transactions")
    assert str(split) == "time (hours)"
    assert (split.keys == columns["hours"][rows.raw_rows]).all()
    assert (rows.ids == columns["transaction_id"][rows.raw_rows]).all()
    _, _, by_card = split_of("fraud", "generator://transactions", split="group")
    assert str(by_card) == "group (card_id)"
    _, _, at_random = split_of("fraud", "generator://transactions", split="random")
    assert str(at_random) == "random"
    assert str(split_of("churn", "generator://customers")[2]) == "random"


def test_what_is_split_by_is_no_input():
    widths = {
        split_of("fraud", "generator://transactions", split=kind)[1].inputs.shape[1] for kind in SPLIT_KINDS
    }
    assert widths == {13}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("churn", {"split": "time"}, "'split' is 'time', for which churn has no column .* split_column"),
        ("churn", {"split_column": "age"}, "'split_column' is 'age'; set split to time or group"),
        ("churn", {"split": "time", "split_column": "contract"}, "column 'contract' holds text"),
        ("fraud", {"split": "none"}, "'split' is 'none', as for data to predict; use random"),
        ("fraud", {"split": "month"}, "'split' is 'month'; use random, time, group, none"),
    ],
)
def test_a_split_that_cannot_be_is_refused(name: str, given: dict[str, str], message: str):
    source = {"churn": "generator://customers", "fraud": "generator://transactions"}[name]
    with pytest.raises(BadConfig, match=message):
        split_of(name, source, **given)


@pytest.mark.parametrize(
    ("kind", "keys", "labels", "message"),
    [
        (
            "time",
            np.repeat([1, 2], 50),
            np.arange(100) % 2,
            r"validation has no rows in the split time \(when\)",
        ),
        ("time", np.arange(100), np.arange(100) >= 75, "train has no row of class 1 .* split to random"),
        ("group", np.repeat(7, 100), np.arange(100) % 2, "has no rows .* another split_seed"),
    ],
)
def test_a_split_without_rows_or_a_class_is_refused(kind, keys, labels, message):
    with pytest.raises(BadData, match=f"rule split: .*{message}"):
        by_key(kind, "when", keys, seed=0).check_classes(labels.astype(np.int64), 2)


@pytest.mark.parametrize(
    ("kind", "keys"), [("time", np.array([1.0, np.nan])), ("group", np.array(["a", ""]))]
)
def test_a_row_without_its_time_or_group_is_refused(kind: str, keys):
    with pytest.raises(BadData, match=f"column 'when' has no {kind} in 1 rows"):
        by_key(kind, "when", keys, seed=0)


def customers(path: Path, column: str, value) -> str:
    """Customers as CSV with one more column."""
    from trainyard_trainer.generators import Source, to_csv

    header, *lines = csv.reader(
        to_csv(Source.parse("generator://customers").columns("2026-03-01")).decode().splitlines()
    )
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [[*header, column], *([*line, value(row)] for row, line in enumerate(lines))]
        )
    return path.as_uri()


def test_a_table_names_a_time_that_the_model_does_not_know(steps: Steps, tmp_path: Path):
    # The last rows come first, and the zone counts.
    source = customers(
        tmp_path / "c.csv", "signed_up", lambda row: f"{2026 - row // 1000}-01-01T00:00:00+02:00"
    )
    params = DATE | {"model": "churn", "split": "time", "split_column": "signed_up"}
    validated = steps.run("validate", source, params=params)
    assert validated.code == 0, validated.text
    assert validated.result["split"] == "time (signed_up)"
    processed = steps.run("preprocess", validated.result["dataset"], params=params).result
    assert (processed["train_rows"], processed["validation_rows"], processed["test_rows"]) == (
        3000,
        1000,
        1000,
    )
    forgotten = steps.run(
        "preprocess",
        steps.run("validate", source, params=DATE | {"model": "churn"}).result["dataset"],
        params=params,
    )
    assert forgotten.code == 65
    assert "give split_column to validate as well" in forgotten.result["error"]


def test_a_table_names_a_group_that_the_model_does_not_know(tmp_path: Path):
    source = customers(tmp_path / "c.csv", "household", lambda row: f"house {row // 3}")
    columns, _, split = split_of("churn", source, split="group", split_column="household")
    homes = [set(columns["household"][split.rows[name]]) for name in SPLITS]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 1667


def test_a_time_that_is_none_is_named_with_its_line(tmp_path: Path):
    source = customers(tmp_path / "c.csv", "signed_up", lambda row: "soon" if row == 7 else "2026-01-01")
    with pytest.raises(BadData, match=r"column 'signed_up' is 'soon' in row 7 .* a date and time such as"):
        split_of("churn", source, split="time", split_column="signed_up")
