"""Supervisor of one job, a program: `python -m songgen.jobs.supervisor FOLDER`, as `start_job` calls it.

It is in a session of its own, so that neither the end of its starter nor a closed terminal reaches it. SIGTERM and
SIGINT ask it to stop the command.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from songgen.exit_codes import EXIT_ERROR
from songgen.jobs.execution import Execution
from songgen.jobs.record import read_record
from songgen.runtime.processes.signals import handling

READY = b"ready"
"""What the supervisor tells its starter on standard output, once the start of the job is recorded."""


def main(folder: Path) -> int:
    """Run the command of a job to its end; return its exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    execution = Execution(folder, read_record(folder), os.environ)

    def stop(number: int, frame: FrameType | None) -> None:
        execution.ask_to_stop()

    with handling({signal.SIGTERM: stop, signal.SIGINT: stop}):
        return execution.run(begun=_tell_starter)


def _tell_starter() -> None:
    """Tell the starter, which may have ended by now, that the job is started, and let go of its pipe."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the log


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except (OSError, ValueError) as problem:
        print(f"songgen: error: the job could not be run: {problem}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
