"""The chart's own scripts (files/), as far as they can be tried without a cluster."""

from __future__ import annotations

import base64
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


def test_a_secret_is_composed_of_secrets_of_other_namespaces() -> None:
    make_value = load("files/bootstrap_secrets.py").make_value
    stored = {"team/keys": {"id": "a", "key": "b"}, "own": {"key": "c"}}
    cluster = SimpleNamespace(read=stored.__getitem__)
    recipe = {"template": '{"login": "{team/keys/id}", "password": "{team/keys/key}", "x": "{own/key}"}'}
    assert make_value(recipe, cluster) == '{"login": "a", "password": "b", "x": "c"}'
