"""What a run is asked to do: which signals and files ask, and who else must live through the signals."""

import os
import signal
from pathlib import Path

import pytest

from songgen.data.loader import _outlive_signals
from songgen.runtime.control.commands import Action, Command
from songgen.runtime.processes import commands
from songgen.runtime.processes.commands import SAVE_FILE, STOP_FILE, Inbox
from songgen.runtime.processes.signals import STOP_SIGNALS, leaving_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_is_a_command(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Inbox() as inbox:
        os.kill(os.getpid(), number)
        assert inbox.take() == [Command(Action.STOP, number.name)]
    assert signal.getsignal(number) is before


def test_a_run_that_was_started_to_outlive_its_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Inbox() as inbox:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not inbox.stop_requested()
        with leaving_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_processes_that_read_data_live_through_them(number: signal.Signals) -> None:
    """A signal to the process group reaches them too."""
    child = os.fork()
    if child == 0:
        _outlive_signals(0)
        os.kill(os.getpid(), number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(commands.time, "monotonic", lambda: now[0])
    return now


def test_a_file_asks_for_the_same_and_the_disk_is_not_asked_at_every_step(tmp_path: Path, clock: list[float]) -> None:
    inbox = Inbox(tmp_path)
    assert not inbox.stop_requested()
    (tmp_path / STOP_FILE).touch()
    assert not inbox.stop_requested()
    clock[0] += commands.LOOK_SECONDS
    assert inbox.stop_requested()
    (tmp_path / STOP_FILE).unlink()
    assert inbox.stop_requested(), "a request is not taken back"


def test_a_signal_after_the_file_is_the_first_one(tmp_path: Path, clock: list[float]) -> None:
    """It asks for nothing new, and does not end the process while it saves."""
    (tmp_path / STOP_FILE).touch()
    with Inbox(tmp_path) as inbox:
        assert inbox.stop_requested()
        clock[0] += 60
        os.kill(os.getpid(), signal.SIGTERM)
        assert [command.action for command in inbox.take()] == [Action.STOP]


def test_a_save_is_taken_once_and_by_one_process(tmp_path: Path, clock: list[float]) -> None:
    (tmp_path / SAVE_FILE).touch()
    first, second = Inbox(tmp_path), Inbox(tmp_path)
    assert not first.stop_requested(), "it waits while an evaluation asks for stops alone"
    assert first.take() == [Command(Action.SAVE, f"the file {SAVE_FILE}")]
    assert not first.take() and not second.take()
    assert not (tmp_path / SAVE_FILE).exists(), "its absence says that it was taken"
    (tmp_path / SAVE_FILE).touch()
    clock[0] += commands.LOOK_SECONDS
    assert len(second.take()) == 1


def test_a_further_source_is_asked_at_every_look_and_its_stop_counts_at_once() -> None:
    class Page:
        is_open = False
        waiting: list[Command] = []

        def __enter__(self) -> None:
            self.is_open = True

        def __exit__(self, *error: object) -> None:
            self.is_open = False

        def take(self) -> list[Command]:
            taken, self.waiting = self.waiting, []
            return taken

    page = Page()
    save, later = Command(Action.SAVE, "a page"), Command(Action.STOP, "a page", at=9)
    with Inbox() as inbox:
        inbox.listen_to(page)
        assert page.is_open and not inbox.take()
        page.waiting = [later, save]
        assert not inbox.stop_requested() and inbox.take() == [later, save], "a stop of a later step is no stop yet"
        page.waiting = [Command(Action.STOP, "a page")]
        assert inbox.stop_requested() and len(inbox.take()) == 1
    assert not page.is_open
