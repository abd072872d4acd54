"""Which signals ask a run to stop, and who else must live through them."""

import os
import signal
from pathlib import Path

import pytest

from songgen.data.loader import STOP_SIGNALS, _outlive_signals
from songgen.runtime import stop_requests as signals
from songgen.runtime.stop_requests import STOP_FILE, StopSignals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_of_them_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop_signals:
        os.kill(os.getpid(), number)
        assert stop_signals.received is number
    assert signal.getsignal(number) is before


def test_a_run_that_was_started_to_outlive_its_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop_signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop_signals.requested()
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


def test_a_file_asks_for_the_same_and_the_disk_is_not_asked_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    stop_signals = StopSignals(tmp_path / STOP_FILE)
    assert not stop_signals.requested()
    (tmp_path / STOP_FILE).touch()
    assert not stop_signals.requested()
    now += signals.STOP_FILE_SECONDS
    assert stop_signals.requested() and stop_signals.received is None
    (tmp_path / STOP_FILE).unlink()
    assert stop_signals.requested(), "a request is not taken back"
