"""manifests/secrets has every Secret that the chart would otherwise make, with its keys, and no other one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from references import References
from render import Object, render_chart, wanted_secrets

DIRECTORY = Path(__file__).parents[2] / "manifests/secrets"
FILES = ("production.yaml", "object-storage.yaml", "pgbouncer.yaml")
# Those of the database, which values/production.yaml and values/pgbouncer.yaml ask for.
DATABASE = {
    ("trainyard", "trainyard-airflow-metadata"): {"connection"},
    ("trainyard", "trainyard-mlflow-backend"): {"connection"},
    ("trainyard", "trainyard-database-ca"): {"ca.crt"},
    ("trainyard", "trainyard-pgbouncer-config"): {"login", "users.txt", "pgbouncer.ini"},
}
TLS = ("Secret", "trainyard", "airflow-tls")
Keys = dict[tuple[str, str], set[str]]
READ: dict[str, Callable[[Object], set[str]]] = {
    "external-secrets.yaml": lambda spec: {one["secretKey"] for one in spec["data"]},
    "sealed-secrets.yaml": lambda spec: set(spec["encryptedData"]),
}
KINDS = {"external-secrets.yaml": "ExternalSecret", "sealed-secrets.yaml": "SealedSecret"}


def example(file: str) -> Keys:
    found: Keys = {}
    for one in yaml.safe_load_all((DIRECTORY / file).read_text()):
        place = (one["metadata"]["namespace"], one["metadata"]["name"])
        assert one["kind"] == KINDS[file] and place not in found
        found[place] = READ[file](one["spec"])
    return found


def made_by_the_chart(*files: str) -> Keys:
    wanted = wanted_secrets(render_chart(files=files))
    split = {name.rpartition("/")[::2]: set(keys) for name, keys in wanted.items()}
    return {(namespace or "trainyard", name): keys for (namespace, name), keys in split.items()}


@pytest.mark.parametrize("file", READ)
def test_the_examples_have_the_charts_secrets(file: str) -> None:
    assert example(file) == made_by_the_chart(*FILES) | DATABASE


@pytest.mark.parametrize("file", READ)
def test_with_them_nothing_is_left_for_the_chart_to_make(file: str) -> None:
    objects = render_chart(files=FILES, values={"secrets": {"bootstrap": {"enabled": False}}})
    there = {("Secret", *place) for place in example(file)}
    assert References(objects, {*there, TLS}).check() == []
    for one in there:
        assert References(objects, {*there, TLS} - {one}).check(), one


def test_each_key_is_read_from_where_the_example_says() -> None:
    for one in yaml.safe_load_all((DIRECTORY / "external-secrets.yaml").read_text()):
        namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
        store = f"trainyard/{name}" if namespace == "trainyard" else f"trainyard/{namespace}/{name}"
        for each in one["spec"]["data"]:
            assert each["remoteRef"] == {"key": store, "property": each["secretKey"]}
