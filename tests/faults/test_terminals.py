"""Ctrl-C in a terminal and a terminal that closes: answered at once, and what follows is saved all the same."""

import os
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT, make_world, write_config
from terminals import INTERRUPT, Terminal

from songgen.exit_codes import EXIT_DONE, EXIT_SIGNAL_BASE
from songgen.runtime.processes import commands
from songgen.runtime.status import read_run_status
from songgen.runtime.terminal import outliving_terminal
from songgen.train.checkpoints.files import verify

AT_ONCE_SECONDS = 2.5
"""Within which a signal is answered; a step takes twice as long."""
ANSWER = "SIGINT: the run stops after this step, and saves a checkpoint and the model to "


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


def start(world: Path, folder: Path) -> Terminal:
    """Train with two slow processes under the launcher of `songgen train`, in a terminal, until a step is done."""
    config = write_config(world, output_dir=str(folder), num_train_epochs=200, do_eval=False, save_steps=1000)
    words = f"launch('slow_training', ['train', '--task', 'mixed', {str(config)!r}], LaunchOptions(num_processes=2))"
    code = f"import sys; from songgen.runtime.processes.launcher import *; sys.exit({words})"
    support = ROOT / "tests" / "support"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{support}", "ACCELERATE_USE_CPU": "true"}
    terminal = Terminal([sys.executable, "-c", code], environment)
    terminal.wait_for("loss ")
    return terminal


def assert_saved(folder: Path) -> None:
    """The run has stopped in order: its last step is saved."""
    status = read_run_status(folder)
    assert status is not None and (status.status, status.exit_code) == ("stopped", EXIT_DONE)
    (checkpoint,) = folder.glob("checkpoint-*")
    assert verify(checkpoint).step == status.step and (folder / "model.safetensors").is_file()


@pytest.mark.case(11)
@pytest.mark.parametrize("closes", [False, True])
def test_ctrl_c_is_answered_at_once_and_a_closed_window_is_no_second_request(
    world: Path, tmp_path: Path, closes: bool
) -> None:
    folder = tmp_path / "run"
    terminal = start(world, folder)
    terminal.ask("svae", "did you mean save?")  # the launcher's terminal is that of the main process
    terminal.press(INTERRUPT)
    assert terminal.wait_for(ANSWER + str(folder)) < AT_ONCE_SECONDS
    if closes:
        time.sleep(commands.SAME_REQUEST_SECONDS + 0.5)
        terminal.close()
    assert terminal.wait() == EXIT_DONE, terminal.shown
    assert_saved(folder)
    assert terminal.shown.count(ANSWER) == 1 and "Traceback" not in terminal.shown


@pytest.mark.case(11)
def test_ctrl_c_once_more_ends_a_run_in_the_middle_of_a_step(world: Path, tmp_path: Path) -> None:
    terminal = start(world, tmp_path / "run")
    terminal.press(INTERRUPT)
    terminal.wait_for(ANSWER)
    time.sleep(commands.SAME_REQUEST_SECONDS + 0.5)
    terminal.press(INTERRUPT)
    assert terminal.wait_for("SIGINT again: the run ends at once, without saving") < AT_ONCE_SECONDS
    assert terminal.wait() == EXIT_SIGNAL_BASE + 2, terminal.shown
    assert "Traceback" not in terminal.shown and not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.case(11)
def test_output_that_nobody_reads_any_more_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with outliving_terminal():
            os.close(reading)
            print("lost", flush=True)
            print("also lost")
        assert sys.stdout is stream
        print("still lost", flush=True)
