"""Launched processes: their number, the signals that they get, and the exit code of the whole."""

import os
import signal
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from forked import FORK, redirect
from limits import SAFETY_SECONDS

from songgen.config.keys import all_keys
from songgen.exit_codes import EXIT_LOST_PROCESS, EXIT_NON_FINITE, EXIT_SIGNAL_BASE
from songgen.runtime.processes.launcher import LaunchOptions, launch, launcher_words, run_exit_code

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
rank, folder, what = int(os.environ.get("RANK", 0)), Path(sys.argv[1]), sys.argv[2]

def save(number, frame):
    time.sleep(1)
    (folder / f"saved-{rank}").touch()
    sys.exit(0)

if what == "save":
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
if what == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what.isdigit():
    sys.exit(int(what))
(folder / f"ready-{rank}").touch()
for _ in range(1000):
    time.sleep(0.1)  # short: a signal that comes just before a sleep does not end it
"""


def start(folder: Path, what: str, options: LaunchOptions) -> ForkProcess:
    """Launch `PROGRAM` from a folder in which a file hides a library that accelerate needs."""
    (folder / "ending.py").write_text(PROGRAM)
    (folder / "cwd").mkdir()
    (folder / "cwd" / "signal.py").write_text("raise SystemExit(99)")

    def work() -> None:
        redirect(folder / "log")
        AcceleratorState._reset_state(True)
        os.chdir(folder / "cwd")
        os.environ["PYTHONPATH"] = str(folder)
        os._exit(launch("ending", [str(folder), what], options))

    child = FORK.Process(target=work)
    child.start()
    return child


def wait_until_ready(folder: Path, number: int, child: ForkProcess) -> None:
    deadline = time.monotonic() + SAFETY_SECONDS
    while len(list(folder.glob("ready-*"))) < number:
        assert child.is_alive() and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_is_passed_on_and_the_processes_end_in_their_own_time(tmp_path: Path, processes: int) -> None:
    number = signal.SIGTERM if processes == 1 else signal.SIGINT
    options = LaunchOptions(num_processes=processes, num_machines=1)
    child = start(tmp_path, "save", options)
    wait_until_ready(tmp_path, processes, child)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(SAFETY_SECONDS)
    assert child.exitcode == 0, (tmp_path / "log").read_text()
    assert len(list(tmp_path.glob("saved-*"))) == processes


@pytest.mark.parametrize(("what", "code"), [("4", EXIT_NON_FINITE), ("kill", EXIT_LOST_PROCESS)])
def test_the_exit_code_is_that_of_the_run(tmp_path: Path, what: str, code: int) -> None:
    child = start(tmp_path, what, LaunchOptions(num_processes=2))
    child.join(SAFETY_SECONDS)
    assert child.exitcode == code, (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("codes", "received", "expected"),
    [
        ([4, 4], [], 4),
        ([6, 5], [], 5),
        ([6], [], 6),
        ([-9, 6], [], 6),
        ([-9], [], EXIT_LOST_PROCESS),
        ([-15], [signal.SIGTERM], EXIT_SIGNAL_BASE + signal.SIGTERM),
        ([143], [signal.SIGTERM], 143),
        ([-15, 1], [signal.SIGTERM], 1),
    ],
)
def test_the_exit_code_of_several_processes(codes: list[int], received: list[int], expected: int) -> None:
    assert run_exit_code(codes, received) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_processes": 8}, {"multi_gpu": True, "num_processes": 8, "num_machines": 1, "main_process_port": 0}),
        ({"gpu_ids": "1"}, {"multi_gpu": False, "num_processes": 1, "gpu_ids": "1"}),
        (
            {"num_processes": 16, "num_machines": 2, "machine_rank": 1, "main_process_ip": "h", "main_process_port": 9},
            {"multi_gpu": True, "num_machines": 2, "machine_rank": 1, "main_process_ip": "h", "main_process_port": 9},
        ),
        ({"config_file": "ddp_8_gpus"}, {"multi_gpu": False, "num_processes": None, "main_process_port": 0}),
        ({"config_file": "ddp_8_gpus", "num_processes": 4}, {"num_processes": 4}),
        ({"config_file": "fsdp2_8_gpus"}, {"multi_gpu": False, "use_fsdp": False}),
        ({"config_file": "cpu_2_processes"}, {"main_process_port": None}),
        ({"config_file": "two_nodes", "machine_rank": 1}, {"machine_rank": 1, "main_process_port": None}),
        ({"config_file": "single_gpu"}, {"multi_gpu": False}),
        ({"config_file": "single_gpu", "num_processes": 2}, {"multi_gpu": True, "num_processes": 2}),
    ],
)
def test_what_accelerate_is_told(options: dict[str, Any], expected: dict[str, Any]) -> None:
    if "config_file" in options:
        options["config_file"] = ROOT / "helpers" / "accelerate_configs" / f"{options['config_file']}.yaml"
    words = [*launcher_words(LaunchOptions(**options)), "--module", "m", "--num_processes", "of the run"]
    parsed = launch_command_parser().parse_args(words)
    assert (parsed.training_script, parsed.training_script_args) == ("m", ["--num_processes", "of the run"])
    assert {name: getattr(parsed, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 0}, "--num_processes is 0"),
        ({"num_machines": -1, "num_processes": 2}, "--num_machines is -1"),
        ({"num_machines": 2}, "--num_machines needs --num_processes"),
        ({"config_file": Path("gone.yaml")}, "no launch file gone.yaml"),
    ],
)
def test_options_that_make_no_launch_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaunchOptions(**options)


def test_one_process_needs_no_launch() -> None:
    assert not LaunchOptions().are_needed and not LaunchOptions(num_processes=1).are_needed
    assert LaunchOptions(num_processes=2).are_needed and LaunchOptions(gpu_ids="3").are_needed


def test_no_launch_option_is_a_key_of_the_configuration() -> None:
    assert not set(LaunchOptions.__dataclass_fields__) & set(all_keys())
