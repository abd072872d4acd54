"""The time of a run is measured on a few of its songs, whose results are used again."""

import dataclasses
from pathlib import Path

import pytest
from accelerate.state import PartialState
from prepare_steps import ShoutStep, make_record

from songgen.prepare import time_estimate
from songgen.prepare.engine.phases import ESTIMATING
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import StepOutput, WorkFolder
from songgen.prepare.review.corrections import Corrections
from songgen.prepare.sections import SECTIONS
from songgen.prepare.time_estimate import estimate_time
from songgen.runtime.reported_work import ReportedWork
from songgen.runtime.status import PREPARE_STATUS_FILE, read_run_status


class Clock:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("songgen.prepare.time_estimate.time", clock)
    monkeypatch.setattr("songgen.prepare.engine.runner.time", clock)
    return clock


class SlowStep(ShoutStep):
    """Takes a tenth of the length of a song, and a minute to load."""

    clock: Clock
    ran: list[str]

    def start(self) -> None:
        super().start()
        self.clock.seconds += 60

    def run(self, records: list[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        self.ran += [record.id for record in records]
        self.clock.seconds += sum(record.duration for record in records) / 10
        return super().run(records, folder)


def songs(count: int, seconds: float = 200.0) -> list[SongRecord]:
    return [dataclasses.replace(make_record(f"s{number}", caption="a"), duration=seconds) for number in range(count)]


def estimated(folder: Path, clock: Clock, records: list[SongRecord]) -> tuple[str, list[str]]:
    step = SlowStep()
    SlowStep.clock, SlowStep.ran = clock, []
    with Runner(WorkFolder(folder), PartialState(cpu=True)) as runner:
        found = estimate_time(runner, [(SECTIONS["voice"], [step])], records, Corrections([]))
        measured = list(SlowStep.ran)
        runner.run(step, records)
    assert sorted(SlowStep.ran) == sorted(record.id for record in records), "nothing is computed twice"
    return found, measured


def test_the_time_of_all_songs_follows_from_two(tmp_path: Path, clock: Clock) -> None:
    found, measured = estimated(tmp_path, clock, songs(100))
    # A minute to load, and a tenth of 100 times 200 s.
    assert found.startswith("expected time: about 34 min for 100 songs (5 h 33 min of music), measured on 2 of them")
    assert "(shout 34 min)" in found and len(measured) == 2


def test_the_steps_on_two_songs_are_one_phase(tmp_path: Path, clock: Clock) -> None:
    """As steps, they would show two songs as all of them, and then begin again."""
    SlowStep.clock, SlowStep.ran = clock, []
    with ReportedWork(tmp_path, PREPARE_STATUS_FILE) as work:
        with Runner(WorkFolder(tmp_path), PartialState(cpu=True), work=work) as runner:
            estimate_time(runner, [(SECTIONS["voice"], [SlowStep()])], songs(20), Corrections([]))
            status = read_run_status(tmp_path, PREPARE_STATUS_FILE)
            assert status is not None and status.progress is not None and status.progress.phase == ESTIMATING
            runner.run(SlowStep(), songs(20))
        status = read_run_status(tmp_path, PREPARE_STATUS_FILE)
        assert status is not None and status.progress is not None and status.progress.phase == SlowStep.name


def test_songs_of_usual_length_are_measured(tmp_path: Path, clock: Clock) -> None:
    found = [*songs(7), dataclasses.replace(make_record("long", caption="a"), duration=1800.0),
             dataclasses.replace(make_record("short", caption="a"), duration=3.0)]  # fmt: skip
    _, measured = estimated(tmp_path, clock, found)
    assert not {"long", "short"} & set(measured)


def test_few_songs_short_runs_and_finished_work_are_not_announced(tmp_path: Path, clock: Clock) -> None:
    assert estimated(tmp_path / "few", clock, songs(time_estimate.MIN_SONGS - 1))[0] == ""
    SlowStep.clock, SlowStep.ran = clock, []
    with Runner(WorkFolder(tmp_path / "done"), PartialState(cpu=True)) as runner:
        runner.run(SlowStep(), songs(20))
        assert estimate_time(runner, [(SECTIONS["voice"], [SlowStep()])], songs(20), Corrections([])) == ""
        assert estimate_time(runner, [(SECTIONS["voice"], [ShoutStep("?")])], songs(20), Corrections([])) == ""
