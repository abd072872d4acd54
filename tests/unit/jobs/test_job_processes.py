"""Jobs as processes: how they start, end, are stopped, and what is left when one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from limits import SAFETY_SECONDS

import songgen
from songgen.jobs import execution
from songgen.jobs.execution import JOB_VARIABLE, LOOK_SECONDS, executable_command, marked_processes
from songgen.jobs.log import read_log
from songgen.jobs.record import JOB_LOCK_FILE, LOG_FILE, JobView, find_jobs, read_job
from songgen.jobs.starting import remove_job, run_in_foreground, start_job, stop_job
from songgen.runtime import folder_lock

WAIT = "import signal, sys, time; print('waiting')\nwhile True: time.sleep(0.1)"
"""Program that runs until a signal ends it."""

SAVE = """
import signal, sys, time
def save(number, frame):
    print(signal.Signals(number).name, "saves")
    time.sleep(0.5)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
print("waiting")
while True: time.sleep(0.1)
"""
"""Program that saves when it is interrupted, and ends with a code of its own."""


FOREGROUND = """
import signal; from pathlib import Path; from songgen.jobs.starting import run_in_foreground
signal.signal(signal.SIGINT, signal.default_int_handler)  # also if pytest was started in the background
"""


def start(workspace: Path, program: str, *words: str, environment: dict[str, str] | None = None) -> JobView:
    command = ["python", "-c", program, *words]
    return start_job(workspace / "jobs", command, title="a job", cwd=workspace, environment=environment)


def now(view: JobView) -> JobView:
    return read_job(view.folder.parent, view.job.id)


def printed(view: JobView) -> str:
    part = read_log(view.folder, max_lines=100)
    return part.text + part.unfinished


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SAFETY_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(view: JobView) -> JobView:
    wait_for(lambda: not now(view).is_active)
    return now(view)


def waiting(workspace: Path, program: str, *words: str) -> JobView:
    """A job whose program has said that it waits."""
    view = start(workspace, program, *words)
    wait_for(lambda: "waiting" in printed(view))
    return view


def supervisor_of(view: JobView) -> psutil.Process:
    return psutil.Process(int(json.loads((view.folder / JOB_LOCK_FILE).read_text())["pid"]))


def outcome(view: JobView) -> tuple[str, int | None, str | None]:
    assert view.status is not None
    return view.state, view.status.exit_code, view.status.reason


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("pass", ("finished", 0, None)),
        ("print('first'); raise ValueError('too small')", ("failed", 1, "ValueError: too small")),
        (
            "import sys; print('songgen x: error: no such file'); print('bye'); sys.exit(2)",
            ("failed", 2, "songgen x: error: no such file"),
        ),
        (
            "import sys; print('x: error: 2 problems:'); print('  - a'); print('  - b'); sys.exit(2)",
            ("failed", 2, "x: error: 2 problems:\n  - a\n  - b"),
        ),
        ("import sys; sys.exit(6)", ("failed", 6, None)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", ("stopped", 143, "stopped by SIGTERM")),
    ],
)
def test_how_a_command_ends_is_recorded(tmp_path: Path, program: str, expected: tuple[Any, ...]) -> None:
    assert outcome(ended(start(tmp_path, program))) == expected


def test_a_command_that_the_system_killed_has_failed(tmp_path: Path) -> None:
    state, code, reason = outcome(ended(start(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")))
    assert (state, code) == ("failed", 137) and reason is not None
    assert reason.startswith("ended by SIGKILL") and "memory" in reason


def test_both_streams_are_in_the_log_in_order_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    view = start(
        tmp_path, "import sys, time\nfor n in range(3): print(n); print('e', n, file=sys.stderr)\ntime.sleep(600)"
    )
    wait_for(lambda: printed(view) == "0\ne 0\n1\ne 1\n2\ne 2\n")


def test_a_command_of_songgen_runs_in_its_folder_and_imports_nothing_from_it(tmp_path: Path) -> None:
    for name in ("argparse", "songgen", "psutil", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    view = start_job(tmp_path / "jobs", ["songgen", "--version"], title="version", cwd=tmp_path)
    assert outcome(ended(view)) == ("finished", 0, None) and printed(view) == f"songgen {songgen.__version__}\n"


def test_it_reads_nothing_and_inherits_no_file(tmp_path: Path) -> None:
    program = "import os, sys; print(sorted(os.listdir('/proc/self/fd'))); print(repr(sys.stdin.read()), os.getcwd())"
    starter = (
        "import os; from pathlib import Path; from songgen.jobs.starting import start_job\n"
        "for end in os.pipe(): os.set_inheritable(end, True)\n"
        f"start_job(Path('jobs'), ['python', '-c', {program!r}], title='x', cwd=Path())"
    )
    subprocess.run([sys.executable, "-c", starter], cwd=tmp_path, input=b"typed", check=True, timeout=SAFETY_SECONDS)
    [view] = find_jobs(tmp_path / "jobs")
    assert printed(ended(view)) == f"['0', '1', '2', '3']\n'' {tmp_path}\n"  # 3 is that of listdir


def test_it_is_in_a_session_of_its_own_and_leaves_no_zombie(tmp_path: Path) -> None:
    view = waiting(tmp_path, WAIT)
    supervisor = supervisor_of(view)
    [command] = supervisor.children()
    assert os.getsid(supervisor.pid) == supervisor.pid != os.getsid(0) and os.getpgid(command.pid) == command.pid
    stop_job(view)
    ended(view)
    wait_for(lambda: not psutil.pid_exists(supervisor.pid) and not psutil.pid_exists(command.pid))


def test_the_supervisor_is_light(tmp_path: Path) -> None:
    maps = Path(f"/proc/{supervisor_of(waiting(tmp_path, WAIT)).pid}/maps").read_text()
    assert "libpython" in maps or "python" in maps
    assert not [name for name in ("torch", "numpy", "accelerate") if f"/{name}/" in maps]


@pytest.mark.parametrize(("code", "expected"), [(0, "stopped"), (130, "stopped"), (5, "failed")])
def test_a_job_that_is_stopped_is_interrupted_once_and_saves(tmp_path: Path, code: int, expected: str) -> None:
    view = waiting(tmp_path, SAVE, str(code))
    stop_job(view)
    wait_for(lambda: "saves" in printed(view))
    stop_job(view)
    state, exit_code, reason = outcome(ended(view))
    assert (state, exit_code) == (expected, code) and printed(view) == "waiting\nSIGINT saves\n"
    assert reason == ("stopped, as was asked for" if expected == "stopped" else "SIGINT saves")
    with pytest.raises(ValueError, match=f"it is {expected}"):
        stop_job(view)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_stops_the_job_and_a_hangup_does_not(tmp_path: Path, number: signal.Signals) -> None:
    view = waiting(tmp_path, SAVE, "0")
    supervisor = supervisor_of(view)
    supervisor.send_signal(signal.SIGHUP)
    supervisor.send_signal(number)
    assert outcome(ended(view)) == ("stopped", 0, "stopped, as was asked for")
    assert printed(view) == "waiting\nSIGINT saves\n"


def test_killing_ends_everything_that_was_started(tmp_path: Path) -> None:
    """Also processes in sessions of their own, as torchrun starts them, and those that have lost their parent."""
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "rank = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(rank, start_new_session=True)\n"
        "subprocess.run([sys.executable, '-c', f'import subprocess; subprocess.Popen({rank})'])\n"
        "print('waiting'); time.sleep(600)"
    )
    view = waiting(tmp_path, program)
    assert len(marked_processes(view.job.id)) == 3
    stop_job(view)
    assert now(view).is_active  # it ignores that
    stop_job(view, kill=True)
    assert outcome(ended(view)) == ("stopped", 137, "killed, as was asked for")
    assert not marked_processes(view.job.id)


def test_a_job_runs_as_long_as_anything_of_it_does(tmp_path: Path) -> None:
    """The processes of a training run whose launcher was killed save a checkpoint."""
    rank = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.05)\nprint('saved')"
    program = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {rank!r}], start_new_session=True); print('left')"
    )
    view = start(tmp_path, program)
    supervisor = supervisor_of(view)
    wait_for(lambda: "left" in printed(view) and not supervisor.children())
    time.sleep(2 * LOOK_SECONDS)
    assert now(view).is_active and len(marked_processes(view.job.id)) == 1
    (tmp_path / "go").touch()
    assert outcome(ended(view))[0] == "finished" and printed(view) == "left\nsaved\n"


def test_when_the_supervisor_is_killed_the_command_saves_and_ends(tmp_path: Path) -> None:
    view = waiting(tmp_path, SAVE, "0")
    assert supervisor_of(view).num_threads() == 1, "the system would tell the command twice to stop"
    supervisor_of(view).kill()
    wait_for(lambda: not marked_processes(view.job.id))
    assert printed(view) == "waiting\nSIGTERM saves\n"
    assert ended(view).state == "lost"
    with pytest.raises(ValueError, match="it is lost"):
        stop_job(view)
    remove_job(view)
    assert not find_jobs(view.folder.parent)


def test_the_lock_is_touched_while_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network disk, other machines see by that whether a job is alive."""
    touched = []
    monkeypatch.setattr(folder_lock.os, "utime", touched.append)
    monkeypatch.setattr(execution, "TOUCH_SECONDS", 0.1)
    program = "import time; time.sleep(0.7)"
    assert run_in_foreground(tmp_path / "jobs", ["python", "-c", program], title="x", cwd=tmp_path) == 0
    assert len(touched) >= 2


def test_a_job_goes_on_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = "import os, time\nprint('waiting')\nwhile not os.path.exists('go'): time.sleep(0.05)"
    starter = (
        "import os, signal, sys; from pathlib import Path; from songgen.jobs.starting import start_job\n"
        f"start_job(Path('jobs'), ['python', '-c', {program!r}], title='x', cwd=Path())\n"
        "os.killpg(0, signal.SIGHUP) if sys.argv[1] == 'hangup' else os.killpg(0, signal.SIGKILL)"
    )
    for how in ("kill", "hangup"):
        command = [sys.executable, "-c", starter, how]
        done = subprocess.run(command, cwd=tmp_path, start_new_session=True, timeout=SAFETY_SECONDS)
        assert done.returncode == (-signal.SIGKILL if how == "kill" else -signal.SIGHUP)
    views = find_jobs(tmp_path / "jobs")
    assert [view.state for view in views] == ["running", "running"]
    (tmp_path / "go").touch()
    assert [ended(view).state for view in views] == ["finished", "finished"]


def test_what_a_job_starts_as_a_job_is_not_a_part_of_it(tmp_path: Path) -> None:
    """The page may be a job: neither its stop nor its end reaches what was started there."""
    starter = (
        "from pathlib import Path; from songgen.jobs.starting import start_job; import time\n"
        f"start_job(Path('jobs'), ['python', '-c', {WAIT!r}], title='inner', cwd=Path())\n"
        "print('waiting'); time.sleep(600)"
    )
    outer = waiting(tmp_path, starter)
    [inner] = [view for view in find_jobs(tmp_path / "jobs") if view.job.title == "inner"]
    stop_job(outer, kill=True)
    assert ended(outer).state == "stopped" and now(inner).is_active


def test_the_environment_is_handed_over_and_not_stored(tmp_path: Path) -> None:
    view = start(
        tmp_path,
        "import os; print(os.environ['TOKEN'][::-1])",
        environment={**os.environ, "TOKEN": "secret-7", JOB_VARIABLE: "x"},
    )
    assert printed(ended(view)) == "7-terces\n"
    assert not [path for path in view.folder.iterdir() if b"secret-7" in path.read_bytes()]


@pytest.mark.parametrize(
    ("command", "cwd", "message"),
    [
        (["rm", "-r"], ".", "not a command that a job can run"),
        ([], ".", "not a command that a job can run"),
        (["songgen", "a\0b"], ".", "NUL"),
        (["songgen", "list"], "absent", "not a folder"),
    ],
)
def test_what_cannot_be_started_leaves_no_job(tmp_path: Path, command: Sequence[str], cwd: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_job(tmp_path / "jobs", command, title="x", cwd=tmp_path / cwd)
    assert not (tmp_path / "jobs").exists()


def test_a_supervisor_that_cannot_start_leaves_no_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the job could not be started: .*encodings"):
        start(tmp_path, WAIT, environment={**os.environ, "PYTHONHOME": "/nowhere"})
    assert not list((tmp_path / "jobs").iterdir())


def test_a_command_that_the_system_cannot_start_has_failed(tmp_path: Path) -> None:
    view = ended(start(tmp_path, "pass", "x" * (1 << 18)))  # longer than an argument may be
    assert view.state == "failed" and view.status is not None and "too long" in str(view.status.reason)


def test_a_job_runs_once(tmp_path: Path) -> None:
    view = ended(start(tmp_path, "print('ran')"))
    command = [sys.executable, "-m", "songgen.jobs.supervisor", str(view.folder)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=SAFETY_SECONDS)
    assert again.returncode == 1 and "was run before" in again.stderr and printed(view) == "ran\n"


def test_in_the_foreground_it_shows_what_it_logs(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    command = ["python", "-c", "import sys; sys.stdout.buffer.write(b'10%\\r20%\\xff\\n'); sys.exit(3)"]
    assert run_in_foreground(tmp_path / "jobs", command, title="x", cwd=tmp_path, subject="out") == 3
    [view] = find_jobs(tmp_path / "jobs")
    assert (view.state, view.job.subject) == ("failed", "out")
    assert capfdbinary.readouterr().out == (view.folder / "log.txt").read_bytes() == b"10%\r20%\xff\n"


def test_ctrl_c_in_the_foreground_waits_for_the_command(tmp_path: Path) -> None:
    """The terminal interrupts both; the command gets one signal, and what it prints then is shown."""
    program = (
        f"{FOREGROUND}"
        f"try: run_in_foreground(Path('jobs'), ['python', '-c', {SAVE!r}, '0'], title='x', cwd=Path())\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == b"SIGINT saves\ninterrupted\n"
    [view] = find_jobs(tmp_path / "jobs")
    assert outcome(view) == ("stopped", 0, "stopped, as was asked for")


def test_a_second_ctrl_c_ends_the_foreground_and_then_the_command(tmp_path: Path) -> None:
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{WAIT}"
    program = f"{FOREGROUND}run_in_foreground(Path('jobs'), ['python', '-c', {deaf!r}], title='x', cwd=Path())"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
        [view] = find_jobs(tmp_path / "jobs")
        process.send_signal(signal.SIGINT)
        time.sleep(2 * LOOK_SECONDS)
        assert process.poll() is None and now(view).is_active
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate()[1]
    assert outcome(now(view)) == ("stopped", None, "interrupted")
    wait_for(lambda: not marked_processes(view.job.id))


def test_a_foreground_job_can_be_stopped_from_elsewhere(tmp_path: Path) -> None:
    program = f"{FOREGROUND}run_in_foreground(Path('jobs'), ['python', '-c', {SAVE!r}, '0'], title='x', cwd=Path())"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
        [view] = find_jobs(tmp_path / "jobs")
        assert view.is_active
        stop_job(view)
        assert b"KeyboardInterrupt" in process.communicate()[1]
    assert outcome(now(view)) == ("stopped", 0, "stopped, as was asked for")


def test_what_outlives_its_command_for_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "LEFT_SECONDS", 0.0)
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    assert run_in_foreground(tmp_path / "jobs", ["python", "-c", program], title="x", cwd=tmp_path) == 0
    [view] = find_jobs(tmp_path / "jobs")
    assert view.state == "finished" and not marked_processes(view.job.id)


def test_what_outlives_its_command_is_interrupted_once_when_the_job_is_stopped(tmp_path: Path) -> None:
    """As the processes of a training run whose launcher was killed: each saves at the first signal."""
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SAVE!r}, '0'], start_new_session=True)"
    view = waiting(tmp_path, program)
    wait_for(lambda: len(marked_processes(view.job.id)) == 1)  # the command itself has ended
    stop_job(view)
    assert outcome(ended(view))[0] == "stopped" and printed(view) == "waiting\nSIGINT saves\n"


def test_a_long_reason_ends_between_two_words(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(500)]
    (tmp_path / LOG_FILE).write_text(f"songgen x: error: {' '.join(words)}\n")
    reason = execution._last_error(tmp_path)
    assert reason is not None and 1_900 < len(reason) <= 2_000 and reason.endswith("…")
    assert reason[:-1].split()[-1] in words
    (tmp_path / LOG_FILE).write_text("x" * 5_000)
    assert execution._last_error(tmp_path) == "x" * 1_999 + "…"


def test_commands_run_with_this_python(tmp_path: Path, repository_root: Path) -> None:
    assert executable_command(("python", "a.py", "b")) == [sys.executable, "a.py", "b"]
    assert executable_command(("songgen", "list"), tmp_path) == [sys.executable, "-P", "-m", "songgen.cli.main", "list"]
    launched = executable_command(("accelerate", "launch", "a.py"), repository_root)
    assert launched == [sys.executable, "-m", "accelerate.commands.launch", "a.py"]
    for command in ((), ("rm", "-r"), ("accelerate", "env"), ("sh",)):
        with pytest.raises(ValueError, match="not a command"):
            executable_command(command)
