import json
import subprocess
import sys
from pathlib import Path

import pytest
from trainyard_contract import RESULT_LIMIT_BYTES
from trainyard_trainer import result
from trainyard_trainer.errors import BadConfig, CodeError


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_RETURN", str(tmp_path / "xcom/return.json"))
    return tmp_path / "xcom/return.json"


def test_the_file_is_written_in_place(file):
    file.parent.mkdir()
    file.write_text("something longer than the result that is to come")
    before = file.stat().st_ino
    result.write({"rows": 1})
    assert json.loads(file.read_text()) == {"rows": 1}
    assert file.stat().st_ino == before  # a bind mount cannot be replaced


def test_a_result_may_have_just_the_limit(file):
    result.write({"text": "x" * (RESULT_LIMIT_BYTES - len('{"text": ""}'))})
    assert file.stat().st_size == RESULT_LIMIT_BYTES


def test_one_byte_more_is_a_code_error(file):
    with pytest.raises(CodeError, match="at most 4000") as error:
        result.write({"text": "x" * (RESULT_LIMIT_BYTES - len('{"text": ""}') + 1)})
    assert error.value.exit_code == 70
    assert not file.exists()


@pytest.mark.parametrize("character", ["x", "é", "\1", "\N{GRINNING FACE}"])
def test_a_long_reason_is_cut(file, character):
    result.write_failure(character * 9000, 70)
    assert file.stat().st_size <= RESULT_LIMIT_BYTES
    assert json.loads(file.read_text())["exit_code"] == 70


def test_a_file_that_cannot_be_written_is_named(file, monkeypatch):
    monkeypatch.setenv("TRAINYARD_RETURN", "/dev/null/return.json")
    with pytest.raises(BadConfig, match=r"/dev/null/return\.json"):
        result.write({})


def test_an_oversized_result_of_a_step_exits_with_70(steps):
    """A URI is nearly all of a result, and a path may be nearly as long as a result."""
    steps.lake = Path(f"{steps.lake}{'/directory' * 400}"[:3899] + "x")
    ended = steps.run("validate", "sklearn://digits")
    assert ended.code == 70
    assert "at most 4000 are allowed" in ended.result["error"]


def test_the_steps_without_training_do_without_torch(steps):
    modules = "trainyard_trainer.cli, trainyard_trainer.steps.validate, trainyard_trainer.steps.preprocess"
    heavy = "{'torch', 'mlflow', 'sklearn'}"
    imported = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print({heavy} & sys.modules.keys())"],
        env=steps.environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert imported.stdout.strip() == "set()"
