"""The chart's own scripts (files/), as far as they can be tried without a cluster."""

from __future__ import annotations

import base64
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import airflow
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from render import CHART


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, CHART / path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_revisions_waited_for_are_those_alembic_finds() -> None:
    """The script reads the files by itself, as importing Alembic and Airflow costs seconds at every start."""
    expected = load("charts/airflow/files/database.py").expected_revisions()
    package = Path(airflow.__file__).parent
    for table, folder in (
        ("alembic_version", package / "migrations"),
        ("alembic_version_fab", package / "providers/fab/migrations"),
    ):
        config = Config()
        config.set_main_option("script_location", str(folder))
        assert [expected[table]] == ScriptDirectory.from_config(config).get_heads()


def test_the_database_script_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("charts/airflow/files/database.py").main(["check-heartbeats"]) == 2
    assert "check-heartbeat JOB_TYPE" in capsys.readouterr().out


def test_secrets_are_long_and_different() -> None:
    make_value = load("files/bootstrap_secrets.py").make_value
    passwords = {make_value({"generate": "password"}, None) for _ in range(10)}
    assert len(passwords) == 10 and min(map(len, passwords)) >= 64
    assert len(base64.urlsafe_b64decode(make_value({"generate": "fernet"}, None))) == 32
    assert make_value({"value": "admin"}, None) == "admin"
    with pytest.raises(ValueError, match="unknown recipe"):
        make_value({"generate": "pasword"}, None)


class Stored(dict[str, dict[str, str]]):
    """Secrets by full name, as the bootstrap script sees the cluster's."""

    read = dict.__getitem__

    def create(self, name: str, values: dict[str, str]) -> bool:
        return self.setdefault(name, values) is values


def test_a_secret_is_composed_of_secrets_of_other_namespaces() -> None:
    make_value = load("files/bootstrap_secrets.py").make_value
    stored = Stored({"team/keys": {"id": "a", "key": "b"}, "own": {"key": "c"}})
    recipe = {"template": '{"login": "{team/keys/id}", "password": "{team/keys/key}", "x": "{own/key}"}'}
    assert make_value(recipe, stored.read) == '{"login": "a", "password": "b", "x": "c"}'


def test_a_secret_is_made_after_those_that_it_is_composed_of() -> None:
    """Whatever their names are, and also where it holds their keys itself."""
    script = load("files/bootstrap_secrets.py")
    wanted = {
        "a": {"url": {"template": "a:{all/password}"}},
        "all": {"copy": {"template": "all:{all/password}"}, "password": {"generate": "password"}},
        "b": {"copy": {"template": "{there/key}"}},
    }
    stored = Stored({"there": {"key": "c"}})
    done: set[str] = set()
    for name in wanted:
        script.make_secret(name, wanted, stored, done)
    password = stored["all"]["password"]
    assert (stored["a"], stored["b"]) == ({"url": f"a:{password}"}, {"copy": "c"})
    assert stored["all"] == {"password": password, "copy": f"all:{password}"}


def test_a_secret_that_is_there_is_kept() -> None:
    script = load("files/bootstrap_secrets.py")
    stored = Stored({"there": {"key": "old"}})
    wanted = {"there": {"key": {"generate": "password"}}, "url": {"key": {"template": "{there/key}"}}}
    for name in wanted:
        script.make_secret(name, wanted, stored, set())
    assert stored == {"there": {"key": "old"}, "url": {"key": "old"}}
