"""The console: complete lines, a silent second process, nothing of the terminal's language from outside."""

import io
import logging
import re
import warnings

import pytest

from songgen.runtime.terminal import printable
from songgen.train.reporting.console import Console, RunSummary, route_logging, route_warnings


@pytest.fixture
def stream():
    return io.StringIO()


def _train_three_steps(console):
    with console.progress(10, 5, first_step=4) as progress:
        for step in (1, 2, 3):
            progress.advance(epoch=2, step_in_epoch=step, steps_in_epoch=8)
        progress.report({"loss": 3.21, "learning_rate": 1e-4, "grad_norm": 0.7, "tokens_per_second": 12345.6})


def test_without_a_terminal_each_report_is_one_line_with_everything(stream):
    _train_three_steps(Console(stream=stream, interactive=False))
    (line,) = stream.getvalue().splitlines()
    for part in (
        "step 7/10", "epoch 3/5 (3/8)", "loss 3.2100", "lr 1.00e-04", "grad 0.700", "tok/s 12,346",
        "steps/s", "epochs/h", "left",
    ):  # fmt: skip
        assert part in line


def test_on_a_terminal_the_bar_shows_the_same(stream):
    _train_three_steps(Console(stream=stream, interactive=True))
    last = stream.getvalue().split("\r")[-1]
    for part in ("7/10", "epoch 3/5 (3/8)", "loss 3.2100", "lr 1.00e-04", "grad 0.700", "tok/s 12,346", "epochs/h"):
        assert part in last


def test_speed_and_remaining_time_come_from_this_process_alone(stream, monkeypatch):
    clock = iter((100.0, 106.0, 106.0, 106.0, 106.0))
    monkeypatch.setattr("songgen.train.reporting.console.time.monotonic", lambda: next(clock))
    progress = Console(stream=stream, interactive=False).progress(110, 1, first_step=50)
    assert progress.remaining == "?"
    for step in (1, 2, 3):
        progress.advance(0, step, 12)
    assert progress.steps_per_second == pytest.approx(0.5)
    assert progress.epochs_per_hour == pytest.approx(150)
    assert progress.remaining == "01:54"


def test_values_that_were_not_measured_do_not_appear_and_prefixes_are_understood(stream):
    with Console(stream=stream, interactive=False).progress(3, 1) as progress:
        progress.advance(0, 1, 3)
        progress.report({"train/loss": 1.5, "eval/other": 2.0})
    assert "loss 1.5" in stream.getvalue() and "lr" not in stream.getvalue() and "other" not in stream.getvalue()


@pytest.mark.parametrize("interactive", [False, True])
def test_another_process_writes_nothing(stream, interactive):
    console = Console(enabled=False, stream=stream, interactive=interactive)
    console.info("a"), console.warn("b"), console.table("c", {"d": "e"})
    _train_three_steps(console)
    route_logging(console, name="songgen.test_console")
    logging.getLogger("songgen.test_console").warning("f")
    assert stream.getvalue() == ""


def test_library_messages_go_through_the_newest_console_once(stream):
    old = io.StringIO()
    for target in (old, stream):
        route_logging(Console(stream=target, interactive=False), name="songgen.test_console")
    logging.getLogger("songgen.test_console.part").info("read %d songs", 3)
    logging.getLogger("songgen.test_console.part").warning("look")
    assert stream.getvalue() == "read 3 songs\nwarning: look\n" and old.getvalue() == ""


def test_a_warning_of_a_library_is_shown_once(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        route_warnings(Console(stream=stream, interactive=False))
        for _ in range(3):
            with warnings.catch_warnings():  # which forgets what was shown before
                warnings.warn("the kernel is slow", UserWarning, stacklevel=1)
    assert re.fullmatch(r"warning: the kernel is slow \(UserWarning, .*test_console.py:\d+\)\n", stream.getvalue())


def test_text_from_outside_cannot_drive_the_terminal(stream):
    Console(stream=stream).info("a\x1b[31mred\x1b[0m\x1b]0;title\x07 b\x00\x9b2J\ttab\nline é ♫")
    assert stream.getvalue() == "ared b2J\ttab\nline é ♫\n"
    assert printable("\x1b[2Jx\rY") == "xY"


def test_summary_shows_what_the_run_will_do(stream):
    summary = RunSummary(
        model="outputs/start [mixed_pro]",
        trained_parameters=750,
        frozen_parameters=250,
        num_clips=1234,
        hours=5.125,
        num_evaluation_clips=0,
        micro_batch="4 clips",
        world_size=8,
        accumulation=4,
        device="cuda",
        precision="bf16",
        total_steps=5000,
        num_epochs=2.5,
        first_step=100,
    )
    Console(stream=stream).table("training", summary.rows())
    text = stream.getvalue()
    for part in (
        "750 trained (75.0%), 250 frozen", "1,234 songs, 5.1", "none", "4 clips x 4 accumulated x 8 processes",
        "cuda, bf16", "5,000 in 2.5 epochs", "after step 100",
    ):  # fmt: skip
        assert part in text
    starts = {line.index(value) for line in text.splitlines() for value in summary.rows().values() if value in line}
    assert len(starts) == 1
