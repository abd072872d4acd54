"""Launchers and processes that are killed: those that are left notice it within seconds, say so and end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from launching import ROOT, wait_until
from limits import SAFETY_SECONDS

from songgen.exit_codes import EXIT_LOST_PROCESS, EXIT_SIGNAL_BASE

SUPPORT = ROOT / "tests" / "support"
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{SUPPORT}", "ACCELERATE_USE_CPU": "true"}
NOTICE_SECONDS = 60
"""Within which everything must be over: it takes two to eight seconds, and more on a machine that has other work."""
KEPT = "completed work is kept, the same command continues"


class Joined:
    """`joined_program.py` in two processes, in which process 0 waits for process 1."""

    def __init__(self, folder: Path, launcher: str, where: str) -> None:
        self.folder, self.log = folder, folder / "log"
        if launcher == "songgen":
            words = f"launch('joined_program', [{str(folder)!r}, {where!r}], LaunchOptions(num_processes=2))"
            code = f"import sys; from songgen.runtime.processes.launcher import *; sys.exit({words})"
            command = [sys.executable, "-c", code]
        else:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
            command += [str(SUPPORT / "joined_program.py"), str(folder), where]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, text=True)
        wait_until(lambda: all(self.pid_of(rank) is not None for rank in (0, 1)), self.process)
        time.sleep(1)  # so that process 0 waits in native code
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def pid_of(self, rank: int) -> int | None:
        path = self.folder / f"ready-{rank}"
        return int(path.read_text()) if path.is_file() and path.read_text() else None

    def printed_at_the_end(self) -> str:
        """Wait until all of it is over, and return what it printed."""
        began = time.monotonic()
        _, alive = psutil.wait_procs(self.family, timeout=SAFETY_SECONDS)
        self.process.wait(SAFETY_SECONDS)
        assert not alive and time.monotonic() - began < NOTICE_SECONDS, self.log.read_text()
        return self.log.read_text()


@pytest.mark.case(22)
@pytest.mark.parametrize("launcher", ["songgen", "torchrun"])
@pytest.mark.parametrize("where", ["before", "inside"])
def test_processes_end_with_their_launcher_also_while_they_look_for_each_other(
    tmp_path: Path, launcher: str, where: str
) -> None:
    run = Joined(tmp_path, launcher, where)
    run.process.kill()
    printed = run.printed_at_the_end()
    assert f"process 1 exits: its launcher has ended; {KEPT}" in printed
    assert "process 0 exits: its launcher has ended" in printed or "process 0 of 2 exits" in printed


@pytest.mark.case(22)
@pytest.mark.parametrize("where", ["before", "inside"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(tmp_path: Path, where: str, rank: int) -> None:
    run = Joined(tmp_path, "songgen", where)
    pid = run.pid_of(rank)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    printed = run.printed_at_the_end()
    assert run.process.returncode == EXIT_LOST_PROCESS, printed
    assert f"songgen: process {rank} (pid {pid}) was ended by SIGKILL" in printed
    if where == "inside":
        assert f"process {1 - rank} of 2 exits: process {rank} (pid {pid} on " in printed


@pytest.mark.case(22)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_for_another_one_in_native_code_ends_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = Joined(tmp_path, "songgen", "before")
    run.process.send_signal(number)
    printed = run.printed_at_the_end()
    assert f"stopped by {number.name} while waiting for other processes; {KEPT}" in printed
    assert run.process.returncode in (EXIT_SIGNAL_BASE + number, 1), printed  # process 1 has Python's own answer
