import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.state import PartialState
from limits import SAFETY_SECONDS
from prepare_steps import CutStep, LastStep, LongStep, ShoutStep, make_record

from songgen.prepare.engine.record import Refusal, SongRecord
from songgen.prepare.engine.runner import Runner, StepFailed, WorkerLost
from songgen.prepare.engine.step import WorkFolder


def runner_in(folder: Path, workers: int = 1) -> Runner:
    return Runner(WorkFolder(folder), PartialState(cpu=True), workers)


def records_of(*captions: str) -> list[SongRecord]:
    return [make_record(f"song{number}", caption=caption) for number, caption in enumerate(captions)]


def result_lines(folder: Path, step: str = "shout") -> list[dict[str, object]]:
    files = sorted((folder / "results").glob(f"{step}.*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_records_are_changed_in_their_order_and_say_by_what(tmp_path: Path) -> None:
    found = runner_in(tmp_path).run(ShoutStep(), records_of("a", "b", "c"))
    assert [record.caption for record in found] == ["A!", "B!", "C!"]
    assert found[0].provenance == {"shout": {"version": 1, "parameters": {"ending": "!"}}}


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    first = runner_in(tmp_path).run(ShoutStep(), records_of("a", "b", "c"))
    stamp = (tmp_path / "results" / "shout.0.jsonl").stat().st_mtime_ns
    step = ShoutStep(unlucky="song1")  # would fail if it ran
    assert runner_in(tmp_path).run(step, records_of("a", "b", "c")) == first
    assert (tmp_path / "results" / "shout.0.jsonl").stat().st_mtime_ns == stamp


def test_only_what_depends_on_a_change_is_done_again(tmp_path: Path) -> None:
    runner_in(tmp_path).run(ShoutStep(), records_of("a", "b", "c"))
    found = runner_in(tmp_path).run(ShoutStep(), records_of("a", "x", "c", "d"))
    assert [record.caption for record in found] == ["A!", "X!", "C!", "D!"]
    assert [line["id"] for line in result_lines(tmp_path)] == ["song0", "song1", "song2", "song1", "song3"]
    assert runner_in(tmp_path).run(ShoutStep("?"), records_of("a"))[0].caption == "A?"


def test_refused_records_are_carried_along_untouched(tmp_path: Path) -> None:
    refused = replace(make_record("bad", caption="x"), refusal=Refusal("take_in", "silent", "it is silent"))
    found = runner_in(tmp_path).run(ShoutStep(), [refused, *records_of("a", "")])
    assert found[0] == refused and found[1].caption == "A!"
    assert found[2].refusal is not None and found[2].refusal.code == "no_caption"
    assert runner_in(tmp_path).run_set(LastStep(), found)[2] == found[2]


def test_a_refused_record_does_not_stop_another_of_its_id(tmp_path: Path) -> None:
    refused = replace(make_record("song0", caption="x"), refusal=Refusal("take_in", "silent", "it is silent"))
    for records in ([refused, *records_of("a")], [*records_of("a"), refused]):
        found = runner_in(tmp_path).run(ShoutStep(), records)
        assert [record.caption for record in found] == ["x" if record is refused else "A!" for record in records]


def test_a_record_that_has_the_field_is_skipped(tmp_path: Path) -> None:
    class NeededStep(ShoutStep):
        def is_needed(self, record: SongRecord) -> bool:
            return not record.caption.endswith("!")

    found = runner_in(tmp_path).run(NeededStep(), records_of("Hi!", "hi"))
    assert [record.caption for record in found] == ["Hi!", "HI!"]
    assert not found[0].provenance and len(result_lines(tmp_path)) == 1


def test_clips_take_the_place_of_their_song(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    songs = runner.run(ShoutStep(), records_of("a", "b"))
    found = runner.run(CutStep(), songs)
    assert [clip.id for clip in found] == ["song0_000", "song0_001", "song1_000", "song1_001"]
    assert all(set(clip.provenance) == {"shout", "cut"} for clip in found)
    (tmp_path / found[2].audio["mix"]).unlink()
    assert runner_in(tmp_path).run(CutStep(), songs) == found
    assert (tmp_path / found[2].audio["mix"]).read_text() == "B! 0"


def test_a_step_over_all_records_sees_those_that_are_in(tmp_path: Path) -> None:
    found = runner_in(tmp_path).run_set(LastStep(), records_of("a", "b", "c"))
    assert [record.refusal is None for record in found] == [True, False, False]
    assert not found[0].provenance and found[1].provenance["last"]["version"] == 3


def test_an_error_names_step_and_record_and_keeps_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="step shout, record 'song3': 'no such luck'"):
        runner_in(tmp_path).run(ShoutStep(unlucky="song3"), records_of(*"abcdef"))
    assert [line["id"] for line in result_lines(tmp_path)] == ["song0", "song1"]
    found = runner_in(tmp_path).run(ShoutStep(), records_of(*"abcdef"))
    assert [record.caption for record in found] == ["A!", "B!", "C!", "D!", "E!", "F!"]


def test_the_users_error_stays_one_for_the_user(tmp_path: Path) -> None:
    class UnreadyStep(ShoutStep):
        def start(self) -> None:
            raise ValueError("install the network first")

    with pytest.raises(ValueError, match="step shout: install the network first"):
        runner_in(tmp_path).run(UnreadyStep(), records_of("a"))


def test_networks_go_when_the_step_is_done(tmp_path: Path) -> None:
    step = ShoutStep()
    runner_in(tmp_path).run(step, records_of("a"))
    assert not hasattr(step, "_network")


def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    captions = ["a", "b", "", "d", "e", "f", "g", "h", "i"]
    alone = runner_in(tmp_path / "alone").run(ShoutStep(), records_of(*captions))
    with runner_in(tmp_path / "shared", workers=2) as runner:
        shared = runner.run(ShoutStep(), records_of(*captions))
        again = runner.run(ShoutStep("?"), records_of(*captions))
    assert [record.caption for record in shared] == [record.caption for record in alone]
    assert [record.caption for record in again] == [record.caption.replace("!", "?") for record in alone]
    processes = {record.measures["process"] for record in [*shared, *again] if record.measures}
    assert len(processes) <= 2, "the workers stay for all steps"
    assert os.getpid() not in {record.measures.get("process") for record in shared}
    # The results of workers serve one process, and the other way round.
    assert runner_in(tmp_path / "shared").run(ShoutStep(unlucky="song0"), records_of(*captions)) == shared
    assert runner_in(tmp_path / "alone", 2).run(ShoutStep(unlucky="song0"), records_of(*captions)) == alone


def test_errors_in_workers_reach_the_user(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="step shout, record 'song2'"), runner_in(tmp_path / "fails", 2) as runner:
        runner.run(ShoutStep(unlucky="song2"), records_of(*"abcd"))
    with pytest.raises(WorkerLost, match="step shout: a worker was killed"), runner_in(tmp_path / "dies", 2) as runner:
        runner.run(ShoutStep(), records_of("a", "b", "c", "die"))


@pytest.mark.parametrize(("other", "problem"), [("die", WorkerLost), ("unlucky", StepFailed)])
def test_a_failed_run_waits_for_no_worker(tmp_path: Path, other: str, problem: type[Exception]) -> None:
    records = [make_record(name, caption=name) for name in ("long", other)]
    with pytest.raises(problem), runner_in(tmp_path, 2) as runner:
        runner.run(LongStep(unlucky="unlucky"), records)
    assert not (tmp_path / "done").exists()


def test_both_ways_of_sharing_at_once_are_refused(tmp_path: Path) -> None:
    class TwoProcesses:
        num_processes, process_index = 2, 0

    with pytest.raises(ValueError, match="workers: 4 in addition to 2 launched processes"):
        Runner(WorkFolder(tmp_path), TwoProcesses(), 4)  # type: ignore[arg-type]


@pytest.mark.faults
def test_workers_end_with_a_main_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib, threading, time\n"
        "from accelerate.state import PartialState\n"
        "from prepare_steps import ShoutStep, make_record\n"
        "from songgen.prepare.engine.runner import Runner\n"
        "from songgen.prepare.engine.step import WorkFolder\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    def kill():\n"
        "        while not list(folder.glob('results/*.jsonl')): time.sleep(0.01)\n"
        "        os.kill(os.getpid(), 9)\n"
        "    threading.Thread(target=kill).start()\n"
        "    records = [make_record(str(n), caption='a') for n in range(100000)]\n"
        "    Runner(WorkFolder(folder), PartialState(cpu=True), 2).run(ShoutStep(), records)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    support = Path(__file__).resolve().parents[3] / "support"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(support), str(support.parents[1])])}
    # Workers inherit the pipe: it closes when the last of them has ended.
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        timeout=SAFETY_SECONDS,
        check=False,
    )
    assert run.returncode == -9
    found = runner_in(tmp_path).run(ShoutStep(), [make_record(str(n), caption="a") for n in range(3)])
    assert [record.caption for record in found] == ["A!"] * 3
