"""Every command to one run that trains: typed into its terminal, and sent with `songgen ctl` from another process."""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import fork_run
from launching import ROOT, make_world, records, write_config
from limits import SAFETY_SECONDS
from terminals import Terminal

from songgen.cli.main import main
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_USAGE
from songgen.families.tokens.objective import TokenObjective
from songgen.runtime.control import requests
from songgen.runtime.control.commands import FORMS, Action
from songgen.runtime.status import EVALUATION_STATUS_FILE, read_run_status
from songgen.train.checkpoints.files import verify
from songgen.train.control.journal import JOURNAL_FILE, journal_lines
from songgen.train.trainer import Trainer

CODE = """
import sys
from songgen.runtime.control import requests
requests.LOOK_SECONDS = 0.05
from songgen.cli.main import main
sys.exit(main(["train", sys.argv[1]]))
"""
SHOWN = {
    "svae": "did you mean save?",
    "lr 1e": "lr: '1e' is not a number; expected lr X (learning rate",
    "save@1": "step 1 is over",
    "save@999999999": "the run ends at step",
    "loss_scale 1024": "dtype float32 has no loss scale here",
    "sample 0": "sample: takes a whole number from 1, got 0; expected sample [N] (generate",
}
"""Wrong commands -> part of the answer."""
ANSWERS = {
    "help": "loss_scale X",
    "lr 5e-5": "5e-05 from here on",
    "lr": "by lr, 0.001 configured",
    "time": "steps/s, step",
    "time to 1": "step 1 is over",
    "status": "scheduled: nothing",
    "lr auto": "0.001 from here on",
    "save": "is saved",
    "eval": "eval: loss ",
    "sample 1": "sample 1: songs of step",
    "export": "export: the model of step",
    "lr 2e-5@900000": "scheduled; ",
    "event show": "event show: lr 2e-05@900000",
    "event clear": "1 scheduled commands are cancelled",
}
"""Commands, in this order -> part of the answer."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(world: Path) -> Path:
    """Folder of the run."""
    return world.parent / "run"


@pytest.fixture(scope="module")
def terminal(world: Path, folder: Path) -> Iterator[Terminal]:
    """A run in a terminal, of which a step is done."""
    config = write_config(
        world, output_dir=str(folder), max_steps=1_000_000, lr_scheduler_type="constant", max_length=12,
        num_generated_samples=1, logging_steps=100, save_steps=None,
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    terminal = Terminal([sys.executable, "-c", CODE, str(config)], environment)
    try:
        terminal.wait_for("loss ")
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait(SAFETY_SECONDS)


def ctl(terminal: Terminal, *words: str) -> int:
    return terminal.read_during(lambda: main(["ctl", *words]))


def test_every_command_is_answered_on_the_terminal(terminal: Terminal, folder: Path) -> None:
    assert "commands can be typed while the run trains" in terminal.shown
    for line, answer in {**SHOWN, **ANSWERS}.items():
        terminal.ask(line, answer)
    (checkpoint,) = folder.glob("checkpoint-*")
    assert verify(checkpoint).step > 0
    (exported,) = (folder / "exports").iterdir()
    assert (exported / "model.safetensors").is_file() and not re.search("tmp", exported.name)
    assert any(folder.glob("samples/step_*/*.wav"))
    told = [entry.command for entry in journal_lines(folder / JOURNAL_FILE).values]
    changing = ["lr 5e-05", "lr auto", "save", "eval", "sample 1", "export", "lr 2e-05@900000", "event clear"]
    assert told == changing, "questions and wrong commands change nothing"


def test_every_command_is_answered_by_ctl(
    terminal: Terminal, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "WAIT_SECONDS", 0.02)
    for line, answer in ANSWERS.items():
        assert ctl(terminal, str(folder), *line.split()) == EXIT_DONE, capsys.readouterr()
        assert answer in capsys.readouterr().out
    for line, answer in SHOWN.items():
        is_wrong = line in ("svae", "lr 1e", "sample 0")  # found before it is sent
        assert ctl(terminal, str(folder), *line.split()) == (EXIT_USAGE if is_wrong else EXIT_ERROR)
        assert answer in capsys.readouterr().err
    assert ctl(terminal, str(folder)) == EXIT_DONE
    printed = capsys.readouterr().out
    assert "event show|clear" in printed and "learning rate 0.001 in the next step" in printed
    assert os.listdir(folder / requests.CONTROL_FOLDER) == [requests.LAUNCH_FILE]
    sources = {entry.source.split()[0] for entry in journal_lines(folder / JOURNAL_FILE).values}
    assert sources == {"the", "songgen"}


def test_quit_ends_the_run_and_nobody_answers_afterwards(
    terminal: Terminal, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl(terminal, str(folder), "quit") == EXIT_DONE
    assert f"checkpoint and model are in {folder}" in capsys.readouterr().out
    assert terminal.wait() == EXIT_DONE, terminal.shown
    status = read_run_status(folder)
    assert status is not None and status.status == "stopped" and (folder / "model.safetensors").is_file()
    assert max(verify(path).step for path in folder.glob("checkpoint-*")) == status.step
    assert main(["ctl", str(folder), "save"]) == EXIT_USAGE
    assert f"no run is active in {folder}" in capsys.readouterr().err
    assert not os.listdir(folder / requests.CONTROL_FOLDER)


@pytest.mark.parametrize(
    ("line", "is_evaluated"), [("quit", False), pytest.param("eval_quit", True, marks=pytest.mark.faults)]
)
def test_a_run_is_ended_from_its_terminal(world: Path, tmp_path: Path, line: str, is_evaluated: bool) -> None:
    folder = tmp_path / "run"
    config = write_config(
        world, output_dir=str(folder), max_steps=1_000_000, logging_steps=100, save_steps=None, do_eval=True
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    terminal = Terminal([sys.executable, "-c", CODE, str(config)], environment)
    try:
        terminal.wait_for("commands can be typed")
        terminal.press(f"{line}\r".encode())
        assert terminal.wait() == EXIT_DONE, terminal.shown
    finally:
        terminal.process.kill()
        terminal.process.wait(SAFETY_SECONDS)
    status = read_run_status(folder)
    assert status is not None and status.status == "stopped"
    assert verify(folder / f"checkpoint-{status.step}").step == status.step
    assert any("eval/loss" in record for record in records(folder)) == is_evaluated


def test_eval_quit_by_ctl_stops_two_processes_after_the_evaluation(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), max_steps=1_000_000, save_steps=None, do_eval=True)

    def hook(rank: int) -> None:
        requests.LOOK_SECONDS = 0.0

    run = fork_run(config, tmp_path / "log", processes=2, hook=hook)
    while not (folder / "run_status.json").exists():
        run.children[0].join(0.05)
    assert main(["ctl", str(folder), "eval_quit"]) == EXIT_DONE
    assert "eval_quit: loss " in capsys.readouterr().out
    run.finish(EXIT_DONE)
    status = read_run_status(folder)
    assert status is not None and status.status == "stopped"
    assert [line["step"] for line in records(folder) if "eval/loss" in line] == [status.step]
    assert verify(folder / f"checkpoint-{status.step}").step == status.step


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_only_evaluates_answers_at_once_and_can_be_ended(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), do_train=False, per_device_eval_batch_size=1)

    def evaluating(rank: int) -> None:
        requests.LOOK_SECONDS = 0.02
        measure = TokenObjective.evaluation_sums

        def waiting(self: TokenObjective, *arguments: Any) -> Any:
            (folder / "evaluates").touch()
            deadline = time.monotonic() + SAFETY_SECONDS
            while rank == 0 and not inbox.stop_requested() and time.monotonic() < deadline:
                time.sleep(0.02)
            return measure(self, *arguments)

        evaluate = Trainer.evaluate

        def watched(self: Trainer) -> None:
            nonlocal inbox
            inbox = self.inbox
            evaluate(self)

        inbox: Any = None
        TokenObjective.evaluation_sums = waiting  # type: ignore[method-assign]  # in a child process
        Trainer.evaluate = watched  # type: ignore[method-assign]

    run = fork_run(config, tmp_path / "log", processes=processes, hook=evaluating)
    deadline = time.monotonic() + SAFETY_SECONDS
    while not (folder / "evaluates").exists():
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.02)
    for words in (["lr", "1e-4"], ["eval"], ["quit@5"], ["save"]):
        assert main(["ctl", str(folder), *words, "--timeout", "60"]) == EXIT_ERROR
        assert "the run only evaluates, and trains nothing; possible: quit, status, help" in capsys.readouterr().err
    assert main(["ctl", str(folder)]) == EXIT_DONE and "only evaluates" in capsys.readouterr().out
    assert main(["ctl", str(folder), "quit"]) == EXIT_DONE
    run.finish(EXIT_DONE)
    status = read_run_status(folder, EVALUATION_STATUS_FILE)
    assert status is not None and status.status == "stopped" and not (folder / "metrics.jsonl").exists()


def test_every_command_has_a_test() -> None:
    typed = {line.replace("@", " ").split()[0] for line in ANSWERS} | {"quit", "eval_quit", "loss_scale"}
    assert typed == {action.value for action in Action} == {action.value for action in FORMS}
