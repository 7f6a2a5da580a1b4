"""What ./scripts/rotate finds in a release: every credential, and every workload that has read one."""

from __future__ import annotations

import base64

import pytest
from render import Object, render_chart, wanted_secrets
from rich.console import Console
from trainyard_cli import rotation
from trainyard_cli.errors import CliError
from trainyard_cli.stages import Stages

AIRFLOW = {"api-server", "dag-processor", "scheduler", "triggerer"}
# The workloads that restart, by the name after the release's.
READERS = {
    "database": AIRFLOW | {"reconciler", "mlflow", "postgresql"},
    "fernet-key": AIRFLOW,
    "jwt": {"api-server", "scheduler"},
    "mlflow": {"mlflow"},
    "object-store": {"api-server", "triggerer", "versitygw"},
    "sessions": {"api-server", "mlflow"},
}
# A person's: Airflow has a command for it.
OTHERWISE = {("trainyard-admin", "password")}


class Rendered:
    """Lists what the chart renders, as the API server would."""

    def __init__(self, objects: list[Object]) -> None:
        self._objects = [
            one | {"metadata": one["metadata"] | {"creationTimestamp": "2026-11-27T00:00:00Z"}}
            for one in objects
        ]

    def items(self, path: str, labelSelector: str = "") -> list[Object]:
        *_, namespace, plural = path.split("/")
        labels = dict(each.split("=") for each in labelSelector.split(",") if each)
        return [
            one
            for one in self._objects
            if one["kind"].lower() + "s" == plural
            and one["metadata"].get("namespace") == namespace
            and labels.items() <= one["metadata"]["labels"].items()
        ]

    def find(self, path: str) -> Object | None:
        """Return an object that somebody has made: none of the bootstrap Job's Secrets is there."""
        return None


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render_chart()


@pytest.fixture(scope="module")
def pooled() -> list[Object]:
    return render_chart(values={"airflow": {"pgbouncer": {"enabled": True}}})


def release(objects: list[Object]) -> rotation.Release:
    return rotation.Release(Rendered(objects), "trainyard", "trainyard", ("kubectl",))


@pytest.mark.parametrize("files", [(), ("production.yaml", "object-storage.yaml")], ids=["default", "s3"])
def test_everything_that_is_random_can_be_rotated(files: tuple[str, ...]) -> None:
    made = wanted_secrets(render_chart(files=files))
    found = {
        (name, key): recipe.get("credential")
        for name, keys in made.items()
        for key, recipe in keys.items()
        if "generate" in recipe
    }
    assert {place for place, credential in found.items() if credential is None} == OTHERWISE
    known = set(rotation.CREDENTIALS) - (set() if not files else {"database"})
    assert set(found.values()) - {None} == known


@pytest.mark.parametrize("credential", READERS)
def test_what_has_read_it_restarts_and_nothing_else(objects: list[Object], credential: str) -> None:
    assert readers(objects, credential) == READERS[credential]


@pytest.mark.parametrize("credential", READERS)
def test_pgbouncer_restarts_with_what_connects_through_it(pooled: list[Object], credential: str) -> None:
    more = {"pgbouncer"} if credential == "database" else set()
    assert readers(pooled, credential) == READERS[credential] | more


def test_what_is_composed_has_the_new_value(objects: list[Object]) -> None:
    known = rotation.recipes(release(objects))
    values = known.new_values("database")
    assert set(values) == {"trainyard-postgresql"}
    assert set(values["trainyard-postgresql"]) == {"postgres-password", "airflow-password", "mlflow-password"}
    composed = known.composed(values, values.__getitem__)
    assert set(composed) == {"trainyard-airflow-metadata", "trainyard-mlflow-backend"}
    password = values["trainyard-postgresql"]["airflow-password"]
    assert f":{password}@trainyard-postgresql" in composed["trainyard-airflow-metadata"]["connection"]


def test_pgbouncer_has_the_new_password_as_well(pooled: list[Object]) -> None:
    known = rotation.recipes(release(pooled))
    values = known.new_values("database")
    password = values["trainyard-postgresql"]["airflow-password"]
    assert known.composed(values, values.__getitem__)["trainyard-pgbouncer"] == {
        "login": f"airflow:{password}",
        "users.txt": f'"airflow" "{password}"\n',
    }


@pytest.mark.parametrize("credential", READERS)
def test_a_missing_secret_is_named_before_anything_changes(objects: list[Object], credential: str) -> None:
    with (
        Stages(Console(quiet=True)) as stages,
        pytest.raises(CliError, match=r"the Secret .*/trainyard-.* is missing"),
    ):
        rotation.rotate(stages, release(objects), credential)


def test_what_somebody_else_has_made_is_left_alone(objects: list[Object]) -> None:
    known = rotation.recipes(release(objects))
    made = known.composed(known.new_values("database"), lambda _: AnyKey())
    assert list(known.foreign({"trainyard-postgresql"}, made.__getitem__)) == []
    own = {"trainyard-mlflow-backend": {"uri": "postgresql://mlflow:secret@db.example.com/mlflow"}}
    found = known.foreign({"trainyard-postgresql"}, {**made, **own}.__getitem__)
    assert [name for name, _ in found] == ["trainyard-mlflow-backend"]


def test_the_databases_server_is_the_releases_own(objects: list[Object]) -> None:
    """Not whatever else reads its Secret, such as an exporter of the user's."""
    found = rotation._component(release(objects), "StatefulSet", "database")
    assert found.name == "trainyard-postgresql"
    server = rotation._component(release(objects), "Deployment", "api-server")
    assert server.name == "trainyard-api-server"
    with pytest.raises(CliError, match="two has no StatefulSet database"):
        other = rotation.Release(Rendered(objects), "trainyard", "two", ("kubectl",))
        rotation._component(other, "StatefulSet", "database")


def readers(objects: list[Object], credential: str) -> set[str]:
    found = release(objects)
    known = rotation.recipes(found)
    names = known.new_values(credential)
    changed = {*names, *known.composed(names, lambda _: AnyKey())}
    places = {found.place(name) for name in changed}
    return {each.name.removeprefix("trainyard-") for each in rotation._readers(found, places)}


class AnyKey(dict[str, str]):
    """A Secret that has every key."""

    def __missing__(self, key: str) -> str:
        return key


def test_what_the_release_had_a_use_for_once_is_made_anew_when_it_has_again(
    objects: list[Object], pooled: list[Object]
) -> None:
    """PgBouncer was on, and is off: with the old password its Secret would shut Airflow out later."""
    old = {"trainyard-postgresql": {"airflow-password": "old-one", "mlflow-password": "other"}}
    stored = {
        **old,
        "trainyard-pgbouncer": {"login": "airflow:old-one", "users.txt": '"airflow" "old-one"'},
        "trainyard-mine": {"key": "old"},
        "trainyard-mlflow-backend": {"uri": "postgresql://mlflow:other@db/mlflow"},
    }

    class Cluster(Rendered):
        def items(self, path: str, labelSelector: str = "") -> list[Object]:
            if not path.endswith("/namespaces/trainyard/secrets"):
                return [] if path.endswith("/secrets") else super().items(path, labelSelector)
            return [
                {"metadata": {"name": name}, "data": {key: b64(value) for key, value in keys.items()}}
                for name, keys in stored.items()
            ]

        def find(self, path: str) -> Object | None:
            keys = stored.get(path.rpartition("/")[2])
            return keys and {"data": {key: b64(value) for key, value in keys.items()}}

    values = {"trainyard-postgresql": {"airflow-password": "new", "mlflow-password": "newer"}}
    for some, left in ((objects, {("trainyard", "trainyard-pgbouncer")}), (pooled, set())):
        of_cluster = rotation.Release(Cluster(some), "trainyard", "trainyard", ("kubectl",))
        assert set(rotation.leftovers(of_cluster, rotation.recipes(of_cluster), values)) == left


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
