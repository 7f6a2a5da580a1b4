"""What validate finds, or refuses, in the split of a dataset."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import Steps
from trainyard_trainer import leakage
from trainyard_trainer.errors import BadData
from trainyard_trainer.generators import Source, to_csv
from trainyard_trainer.models.base import Rows
from trainyard_trainer.splits import Split, by_time, stratified

ROWS = 1000
NUMBER = np.arange(ROWS)
LABELS = NUMBER % 2
RANDOM = np.random.default_rng(0)
CLEAN = Rows(RANDOM.normal(size=(ROWS, 3)).astype(np.float32), LABELS, NUMBER, NUMBER)
SPLIT = Split("random", stratified(LABELS, 2, seed=0))
PARAMS = {"date": "2026-03-01", "model": "fraud"}


def check(rows: Rows, split: Split = SPLIT, max_repeated: float = 0.01, names=()) -> leakage.Findings:
    return leakage.check(rows, split, input_names=names, max_repeated=max_repeated)


def with_input(values) -> Rows:
    inputs = CLEAN.inputs.copy()
    inputs[:, 1] = values
    return replace(CLEAN, inputs=inputs)


def test_a_clean_split_has_no_findings():
    assert check(CLEAN) == leakage.Findings(0, {})
    assert str(check(CLEAN)) == "none"


def test_one_id_in_two_splits_is_refused():
    ids = NUMBER.copy()
    ids[SPLIT.rows["test"][0]] = ids[SPLIT.rows["train"][0]]
    with pytest.raises(
        BadData, match=rf"the id is in two splits for 1 of 999, the first is {SPLIT.rows['train'][0]};"
    ):
        check(replace(CLEAN, ids=ids))
    within = NUMBER.copy()
    within[SPLIT.rows["train"][1]] = within[SPLIT.rows["train"][0]]
    check(replace(CLEAN, ids=within))


def test_one_group_in_two_splits_is_refused():
    with pytest.raises(BadData, match="the group of column 'card' is in two splits for 5 of 5"):
        check(CLEAN, replace(SPLIT, kind="group", column="card", keys=NUMBER % 5))
    # Of another kind of split, nobody promises it.
    check(CLEAN, replace(SPLIT, column="card", keys=NUMBER % 5))


@pytest.mark.parametrize(
    ("moved", "before", "after"), [("train", "train", "validation"), ("validation", "validation", "test")]
)
def test_training_that_reaches_into_the_future_is_refused(moved: str, before: str, after: str):
    split = Split("time", by_time(NUMBER), "when", NUMBER)
    check(CLEAN, split)
    times = NUMBER.copy()
    times[split.rows[moved][0]] = 5000
    with pytest.raises(BadData, match=f"column 'when' reaches 5000 in {before}, but {after} begins at"):
        check(CLEAN, replace(split, keys=times))


def repeated(rows: int) -> Rows:
    """Rows of the test split with the inputs and label of rows of training."""
    inputs, labels = CLEAN.inputs.copy(), CLEAN.labels.copy()
    to, source = SPLIT.rows["test"][:rows], SPLIT.rows["train"][:rows]
    inputs[to], labels[to] = inputs[source], labels[source]
    return replace(CLEAN, inputs=inputs, labels=labels)


def test_equal_rows_are_counted_and_many_are_refused():
    assert check(repeated(3)).repeated_rows == 3  # of 300
    with pytest.raises(BadData, match=r"4 of 300 rows .* at most 1.0% may; .* max_repeated"):
        check(repeated(4))
    assert check(repeated(4), max_repeated=1.0).repeated_rows == 4
    other_label = repeated(4)
    other_label.labels[SPLIT.rows["test"][:4]] ^= 1
    assert check(other_label).repeated_rows == 0


@pytest.mark.parametrize(
    "values",
    [
        LABELS,
        1 - LABELS,
        np.where(LABELS, np.nan, RANDOM.normal(size=ROWS)),
        LABELS + RANDOM.uniform(0, 0.9, ROWS),
    ],
    ids=["label", "inverse", "missing", "ranges"],
)
def test_an_input_that_tells_the_label_is_named(values):
    assert check(with_input(values)).telling_inputs == {"input 1": 1.0}
    named = check(with_input(values), names=("age", "closed_at", "income"))
    assert str(named) == "closed_at alone tells the label (1.0)"


def test_an_input_that_helps_is_not_named():
    assert check(with_input(LABELS + RANDOM.normal(0, 0.7, ROWS))).telling_inputs == {}


def test_one_class_of_several_can_be_told():
    labels = NUMBER % 3
    rows = replace(with_input(labels == 0), labels=labels)
    assert check(rows, Split("random", stratified(labels, 3, seed=0))).telling_inputs == {"input 1": 1.0}


def test_validate_reports_the_split(steps: Steps):
    ended = steps.run("validate", "generator://transactions", params=PARAMS)
    assert ended.code == 0, ended.text
    found = {key: ended.result[key] for key in ("split", "repeated_rows", "telling_inputs")}
    assert found == {"split": "time (hours)", "repeated_rows": 0, "telling_inputs": {}}
    assert ended.event("leakage_checked")["level"] == "info"
    (run,) = steps.runs()
    assert run.data.tags["trainyard.split"] == "time (hours)"
    assert run.data.tags["trainyard.leakage"] == "none"


def deliver(steps: Steps, **changes) -> str:
    columns = Source.parse("generator://transactions").columns(PARAMS["date"]) | changes
    steps.output.mkdir()
    (steps.output / "transactions.csv").write_bytes(to_csv(columns))
    return steps.output.as_uri()


def test_validate_warns_of_an_input_that_tells_the_label(steps: Steps):
    fraud = Source.parse("generator://transactions").columns(PARAMS["date"])["is_fraud"]
    ended = steps.run("validate", deliver(steps, amount=np.where(fraud, 500.0, 20.0)), params=PARAMS)
    assert ended.code == 0, ended.text
    assert ended.result["telling_inputs"] == {"amount": 1.0}
    assert ended.event("leakage_checked")["level"] == "warning"
    assert steps.runs()[0].data.tags["trainyard.leakage"] == "amount alone tells the label (1.0)"


def test_validate_refuses_a_delivery_that_comes_twice_under_new_ids(steps: Steps):
    columns = Source.parse("generator://transactions?rows=4000").columns(PARAMS["date"])
    ids = columns["transaction_id"]
    again = {
        name: np.concatenate([values, values + ids.max() if name == "transaction_id" else values])
        for name, values in columns.items()
    }
    source = deliver(steps, **again)
    ended = steps.run("validate", source, params=PARAMS | {"split": "random"})
    assert ended.code == 65
    assert "rule leakage" in ended.result["error"] and "delivered again" in ended.result["error"]
    assert not steps.lake.exists()
    assert steps.run("validate", source, params=PARAMS | {"split": "none"}).code == 0
