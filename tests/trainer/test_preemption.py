import os
import signal

import pytest
from trainyard_trainer import cli
from trainyard_trainer.errors import Preempted
from trainyard_trainer.preemption import Preemption


@pytest.fixture
def preemption(unchanged_process) -> Preemption:
    preemption = Preemption()
    preemption.install()
    return preemption


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_interrupts_at_once(preemption):
    with pytest.raises(Preempted):
        terminate()


def test_a_deferred_block_is_run_to_its_end(preemption):
    done = []
    with pytest.raises(Preempted), preemption.deferred():
        terminate()
        with preemption.deferred():
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_what_is_saved_afterwards_is_not_interrupted_again(preemption):
    saved = False
    with pytest.raises(Preempted):
        try:
            with preemption.deferred():
                terminate()
        except Preempted:
            with preemption.deferred():
                saved = True
            raise
    assert saved


def test_an_error_in_a_deferred_block_comes_first(preemption):
    with pytest.raises(ValueError, match="broken"), preemption.deferred():
        terminate()
        raise ValueError("broken")


def test_ignored_once_the_step_is_over(preemption):
    preemption.ignore()
    terminate()


def test_a_library_that_makes_another_error_of_it_does_not_hide_it(preemption, monkeypatch, tmp_path):
    def run(*_):
        try:
            terminate()
        except Preempted as preempted:
            raise RuntimeError("as C++ code does") from preempted

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setenv("TRAINYARD_RETURN", str(tmp_path / "return.json"))
    assert cli.main([]) == Preempted.exit_code
