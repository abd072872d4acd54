"""What the terminal shows of a run is in files: its progress and its messages."""

import dataclasses
import itertools
import json
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launching import make_world, records, write_config

from songgen.exit_codes import EXIT_DONE
from songgen.tasks import MIXED
from songgen.train.launch import run_training
from songgen.train.reporting import progress_file
from songgen.train.reporting.console import CONSOLE_FILE
from songgen.train.reporting.milestones import Expectation
from songgen.train.reporting.progress_file import PROGRESS_FILE, NextMilestone, ProgressFile, RunProgress, read_progress


def some(**changes: object) -> RunProgress:
    values = {
        "step": 3, "total_steps": 9, "first_step": 0, "epoch": 1, "num_epochs": 2.5, "step_in_epoch": 3,
        "steps_in_epoch": 4, "steps_per_second": 0.5, "epochs_per_hour": 450.0, "seconds_left": 12.0, "loss": 4.5,
        "learning_rate": 1e-4,
    }  # fmt: skip
    return RunProgress(**values | changes)  # type: ignore[arg-type]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = some(milestones=[NextMilestone("loss", 3.0, 20.0, 44.0), NextMilestone("accuracy", 0.7)])
    ProgressFile(tmp_path, lambda: written).write()
    assert read_progress(tmp_path) == written
    json.loads((tmp_path / PROGRESS_FILE).read_text(), parse_constant=pytest.fail)


def test_nothing_is_written_before_the_start_and_a_missing_folder_does_no_harm(tmp_path: Path) -> None:
    ProgressFile(tmp_path, lambda: None).write()
    assert read_progress(tmp_path) is None and not any(tmp_path.iterdir())
    ProgressFile(tmp_path / "gone", some).write()
    assert not any(tmp_path.iterdir())


def test_threads_write_one_after_the_other_and_the_newest_stays(tmp_path: Path) -> None:
    steps = itertools.count()

    def slow() -> RunProgress:
        step = next(steps)
        time.sleep(0.01 if step % 2 else 0.0)
        return some(step=step)

    file = ProgressFile(tmp_path, slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: file.write(), range(20)))
    progress = read_progress(tmp_path)
    assert progress is not None and progress.step == 19


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 1}', json.dumps(dataclasses.asdict(some()) | {"x": 1})])
def test_a_file_that_cannot_be_read_counts_as_missing(tmp_path: Path, content: str) -> None:
    (tmp_path / PROGRESS_FILE).write_text(content)
    assert read_progress(tmp_path) is None


def test_estimates_that_are_not_finite_are_none() -> None:
    milestone = NextMilestone.of(Expectation("loss", 2.0, 10, (25.0, math.inf)))
    assert (milestone.early, milestone.late) == (25.0, None)
    assert NextMilestone.of(Expectation("loss", 2.0, 10, None)) == NextMilestone("loss", 2.0)
    assert progress_file.finite(math.nan) is None and progress_file.finite(0.0) == 0.0


def test_a_real_run_writes_what_its_terminal_shows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, num_train=4, num_evaluation=1)
    run = tmp_path / "run"
    config = write_config(world, output_dir=str(run), max_steps=6, logging_steps=2, eval_strategy="no")
    written: list[RunProgress] = []
    write = ProgressFile.write

    def watched(self: ProgressFile) -> None:
        write(self)
        if (progress := read_progress(run)) is not None:
            written.append(progress)

    monkeypatch.setattr(ProgressFile, "write", watched)
    monkeypatch.setattr("songgen.train.supervision.WATCH_SECONDS", 0.05)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    last = read_progress(run)
    assert last is not None and last == written[-1] and len(written) > 1, "by the thread, and at the end"
    assert [entry.step for entry in written] == sorted(entry.step for entry in written)
    assert (last.step, last.total_steps, last.first_step) == (6, 6, 0) and last.seconds_left == 0.0
    line = [entry for entry in records(run) if "train/loss" in entry][-1]
    assert last.loss == line.get("train/unweighted_loss", line["train/loss"])
    assert last.learning_rate == line["train/learning_rate"]
    assert last.epoch is not None and last.epoch == math.ceil(line["epoch"])
    assert last.steps_per_second > 0 and last.epochs_per_hour > 0 and last.milestones

    printed, copied = capfd.readouterr().err, (run / CONSOLE_FILE).read_text()
    for text in (r"training\n--------\n", r"step 6/6, epoch \d", "the model is in"):
        assert re.search(text, copied), text
        assert re.search(text, printed), text
    assert len(copied.splitlines()) > 10 and all(row in printed for row in copied.splitlines())
