"""Steps of the demo: run once, run again when something changed, resume, fail loudly."""

from pathlib import Path

import pytest
from demo_run.steps import Step, StepFailed, StepRunner

from songgen.jobs.record import JOBS_FOLDER, find_jobs
from songgen.runtime.status import RUN_STATUS_FILE

APPEND = "import sys; open(sys.argv[1], 'a').write('x')"


def step(name: str = "one", code: str = APPEND, output: str = "out.txt", inputs: tuple[Path, ...] = ()) -> Step:
    return Step(name, f"Step {name}", ("python", "-c", code, output), (Path(output),), inputs)


def run(root: Path, *steps: Step, source: str = "s", ignore_source: bool = False) -> list[float]:
    runner = StepRunner(root, root / "steps", source, ignore_source=ignore_source)
    for each in steps:
        runner.run(each)
    return [record.seconds for record in runner.records]


def test_a_finished_step_is_reused_with_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path, step())
    assert run(tmp_path, step()) == first and first[0] > 0
    assert (tmp_path / "out.txt").read_text() == "x"
    assert "reused" in capsys.readouterr().out


def test_a_step_runs_afresh_when_an_input_the_command_or_the_source_changes(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("1")
    inputs = (Path("in.json"),)
    run(tmp_path, step(inputs=inputs))
    for change in ("input", "command", "source", "lost output"):
        (tmp_path / "out.txt").write_text("old")
        source, code = "s", APPEND
        if change == "input":
            (tmp_path / "in.json").write_text("2")
        elif change == "command":
            code = APPEND + " "
        elif change == "source":
            source = "t"
        else:
            (tmp_path / "out.txt").unlink()
        run(tmp_path, step(code=code, inputs=inputs), source=source)
        assert (tmp_path / "out.txt").read_text() == "x", change
        run(tmp_path, step(inputs=inputs))


def test_source_changes_can_be_ignored(tmp_path: Path) -> None:
    run(tmp_path, step(), source="s")
    (tmp_path / "out.txt").write_text("kept")
    run(tmp_path, step(), source="t", ignore_source=True)
    assert (tmp_path / "out.txt").read_text() == "kept"


def test_a_changed_step_makes_the_steps_after_it_run_again(tmp_path: Path) -> None:
    run(tmp_path, step("one", output="a"), step("two", output="b"))
    (tmp_path / "b").write_text("old")
    run(tmp_path, step("one", APPEND + " ", output="a"), step("two", output="b"))
    assert (tmp_path / "b").read_text() == "x"


def test_an_interrupted_step_goes_on_from_what_it_left(tmp_path: Path) -> None:
    halfway = "import sys, os; f = sys.argv[1]; n = os.path.exists(f); open(f, 'a').write('x'); sys.exit(0 if n else 3)"
    with pytest.raises(StepFailed, match="exit status 3"):
        run(tmp_path, step(code=halfway))
    run(tmp_path, step(code=halfway))
    assert (tmp_path / "out.txt").read_text() == "xx"


def test_a_training_step_that_a_signal_stopped_is_not_done_and_goes_on(tmp_path: Path) -> None:
    code = (
        "import json, os, sys; f = sys.argv[1]; n = os.path.isdir(f); os.makedirs(f, exist_ok=True);"
        "status = {'status': 'finished' if n else 'stopped', 'run_id': 'r'};"
        f"json.dump(status, open(os.path.join(f, '{RUN_STATUS_FILE}'), 'w'))"
    )
    with pytest.raises(StepFailed, match=r"'one' is not finished, run the command again to resume: out \(stopped\)"):
        run(tmp_path, step(code=code, output="out"))
    run(tmp_path, step(code=code, output="out"))


def test_a_command_that_cleans_up_keeps_its_outputs(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("y")
    StepRunner(tmp_path, tmp_path / "steps", "s").run(
        Step("one", "One", ("python", "-c", APPEND, "out.txt"), (Path("out.txt"),), cleans_up=True)
    )
    assert (tmp_path / "out.txt").read_text() == "yx"


def test_a_failure_stops_with_the_command_and_its_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "print('what went wrong'); raise SystemExit(7)"
    with pytest.raises(StepFailed, match="exit status 7: \\$ python -c"):
        run(tmp_path, step(code=code))
    assert "what went wrong" in capfd.readouterr().out
    [view] = find_jobs(tmp_path / JOBS_FOLDER)
    assert (view.job.title, view.job.subject, view.state) == ("demo: Step one", "out.txt", "failed")
    assert "what went wrong" in (view.folder / "log.txt").read_text()


def test_missing_results_and_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="did not write out.txt"):
        run(tmp_path, step(code="pass"))
    with pytest.raises(ValueError, match="needs the file absent.json"):
        run(tmp_path, step(inputs=(Path("absent.json"),)))
