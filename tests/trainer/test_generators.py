import numpy as np
import pytest
from conftest import completed
from trainyard_trainer.errors import BadConfig
from trainyard_trainer.generators import Source, to_csv
from trainyard_trainer.models import churn, fraud, recommendation

MODELS = {"transactions": fraud.Model(), "customers": churn.Model(), "ratings": recommendation.Model()}


def columns(uri: str, date: str = "2026-03-01"):
    return Source.parse(uri).columns(date)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_name_rows_seed_and_date_give_the_same_bytes(name):
    uri = f"generator://{name}?rows=2000&seed=1"
    first = to_csv(columns(uri))
    assert first == to_csv(columns(uri))
    assert first.count(b"\n") == 2001
    assert first != to_csv(columns(uri, "2026-03-02"))
    assert first != to_csv(columns(uri.replace("seed=1", "seed=2")))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("date", ["2025-01-01", "2026-11-21", "2029-06-01"])
def test_the_data_keeps_the_models_rules(name, date):
    model = MODELS[name]
    model.check(model.load(f"generator://{name}", completed(model, {"date": date})))


@pytest.mark.parametrize("name", MODELS)
def test_a_delivered_file_is_the_generators_data(name, tmp_path):
    uri = f"generator://{name}?rows=2000"
    (tmp_path / f"{name}.csv").write_bytes(to_csv(columns(uri)))
    (tmp_path / "_SUCCESS").touch()
    direct = MODELS[name].load(uri, completed(MODELS[name], {"date": "2026-03-01"}))
    for source in (tmp_path, tmp_path / f"{name}.csv"):
        read = MODELS[name].load(source.as_uri(), completed(MODELS[name], {}))
        assert read.keys() == direct.keys()
        for column, values in direct.items():
            assert read[column].dtype == values.dtype
            np.testing.assert_array_equal(read[column], values)


def test_fraud_is_rare_and_some_of_its_data_is_dirty():
    data = columns("generator://transactions")
    assert 0.015 < data["is_fraud"].mean() < 0.025
    assert len(np.unique(data["transaction_id"])) == 19_800 < len(data["is_fraud"]) == 20_000
    assert 0.01 < np.isnan(data["amount"]).mean() < 0.05


def test_amounts_drift_with_the_date():
    now, later = (columns("generator://transactions", date) for date in ("2026-01-01", "2027-01-01"))
    assert 1.05 < np.nanmedian(later["amount"]) / np.nanmedian(now["amount"]) < 1.15


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("generator://weather", "there is no generator"),
        ("generator://ratings?row=5", "unknown key 'row'"),
        ("generator://ratings?rows=0", "rows is '0'; use a whole number from 1"),
        ("generator://ratings?rows=99999999999999999999", "rows is"),
        ("generator://ratings?seed=-1", "seed is '-1'"),
    ],
)
def test_a_wrong_uri_is_named(uri, message):
    with pytest.raises(BadConfig, match=message):
        Source.parse(uri)
