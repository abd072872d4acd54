"""Launcher of the processes of a run: accelerate starts them, signals and exit codes are passed through.

`accelerate launch` exits with 1 whatever the exit code of the run is, and after a signal it kills its processes within
30 seconds, which may be less than a checkpoint takes. Here the run itself decides: a signal is forwarded to it, and the
launcher waits for the processes and returns their exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from songgen.exit_codes import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_SIGNAL_BASE
from songgen.runtime.processes.signals import LAUNCHER_VARIABLE, STOP_SIGNALS, handling
from songgen.runtime.terminal import outliving_terminal, say

KILLED_ADVICE = "; if nobody did so, most likely for want of memory (the system's log says so)"
"""End of the message about a process that a signal ended."""

_SINGLE = ("NO", "MULTI_CPU")
"""Types of launches for which accelerate starts one process, even if it is asked for several."""


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of the launch of a run's processes; None leaves an option to the launch file, or to its default."""

    num_processes: int | None = None
    """Number of processes on all machines together."""

    config_file: Path | None = None
    """Launch file, as written by `accelerate config`."""

    num_machines: int | None = None
    """Number of machines."""

    machine_rank: int | None = None
    """Number of this machine, from 0."""

    main_process_ip: str | None = None
    """Address of the first machine."""

    main_process_port: int | None = None
    """Port of the first machine; None on a single machine for any free one."""

    gpu_ids: str | None = None
    """GPUs to use on this machine, such as `0,1`."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: if the launch file does not exist, a number is below 1, or several machines are given without a
                number of processes.
        """
        if self.config_file is not None and not self.config_file.is_file():
            raise ValueError(f"--config_file: there is no launch file {self.config_file}")
        for name in ("num_processes", "num_machines"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; give 1 or more")
        if (self.num_machines or 1) > 1 and self.num_processes is None and self.config_file is None:
            raise ValueError("--num_machines needs --num_processes (on all machines together) or --config_file")

    @property
    def are_needed(self) -> bool:
        """Whether processes have to be launched; otherwise the run is in this process."""
        others = (self.config_file, self.num_machines, self.gpu_ids)
        return (self.num_processes or 1) > 1 or any(value is not None for value in others)


def launch(module: str, words: Sequence[str], options: LaunchOptions) -> int:
    """Run `python -m MODULE WORDS` in several processes and wait for them.

    Args:
        module: module to run as a program.
        words: arguments of the program.
        options: options of the launch.

    Returns:
        The exit code of the run; see `run_exit_code`.

    Raises:
        ValueError: if accelerate refuses the options.
        SystemExit: if a signal arrives before any process is started.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args([*launcher_words(options), "--module", module, *words])
    # torchrun installs signal handlers when it starts the processes, and would replace those of this module: leave it
    # SIGQUIT only. Accelerate passes every attribute that torchrun knows on to it.
    arguments.signals_to_handle = "SIGQUIT"
    with outliving_terminal(), _environment(), _signals_passed_on() as received:
        try:
            launch_command(arguments)
        except ChildFailedError as error:
            failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
            if failures[0].exitcode < 0 and not received:
                first, name = failures[0], signal.Signals(-failures[0].exitcode).name
                say(f"songgen: process {first.local_rank} (pid {first.pid}) was ended by {name}{KILLED_ADVICE}")
            return run_exit_code([failure.exitcode for failure in failures], received)
        except subprocess.CalledProcessError as error:  # accelerate starts a single process by itself
            return run_exit_code([error.returncode], received)
    return EXIT_DONE


def run_exit_code(codes: Sequence[int], received: Sequence[int]) -> int:
    """Choose the exit code of a run.

    Args:
        codes: exit codes of the failed processes, in the order of their failures; negative for one that was killed by a
            signal.
        received: signals that the launcher has forwarded.

    Returns:
        The first code that a process chose itself. `EXIT_LOST_PROCESS` is only used if there is no other code, since
        any other one is the cause; and for a run whose processes were killed, unless the launcher was asked to stop.
    """
    chosen = [code for code in codes if code > 0]
    if not received and codes[0] not in chosen:  # the launcher ends the others when one was killed
        chosen = [code for code in chosen if code != EXIT_SIGNAL_BASE + signal.SIGTERM]
    reasons = [code for code in chosen if code != EXIT_LOST_PROCESS]
    if reasons:
        return reasons[0]
    return EXIT_SIGNAL_BASE + received[-1] if received and not chosen else EXIT_LOST_PROCESS


def launcher_words(options: LaunchOptions) -> list[str]:
    """Return the arguments of `accelerate launch`, without the program.

    All options that accelerate would otherwise guess, warn about or take from the user's own `accelerate config` are
    given explicitly, so that a command means the same on every machine.
    """
    from accelerate.commands.config.config_args import load_config_from_file

    if options.config_file is None:
        file = None
        words = ["--mixed_precision", "no", "--dynamo_backend", "no", "--machine_rank", str(options.machine_rank or 0)]
        words += ["--num_machines", str(options.num_machines or 1), "--num_processes", str(options.num_processes or 1)]
    else:
        file = load_config_from_file(str(options.config_file))
        words = ["--config_file", str(options.config_file)]
        given = ("num_processes", "num_machines", "machine_rank")
        words += [
            word
            for name in given
            if (value := getattr(options, name)) is not None
            for word in (f"--{name}", str(value))
        ]
    processes = options.num_processes or int(getattr(file, "num_processes", 1))
    machines = options.num_machines or int(getattr(file, "num_machines", 1))
    if processes > 1 and str(getattr(file, "distributed_type", "NO")).rpartition(".")[2] in _SINGLE:
        words.append("--multi_gpu")  # also for processes on the CPU, with the variable in `_environment`
    port = options.main_process_port
    if port is None and machines == 1 and getattr(file, "main_process_port", None) is None:
        port = 0  # any free one, so that two runs do not use the same
    for name, value in (("main_process_port", port), ("main_process_ip", options.main_process_ip)):
        words += [] if value is None else [f"--{name}", str(value)]
    return words if options.gpu_ids is None else [*words, "--gpu_ids", options.gpu_ids]


def has_accelerator() -> bool:
    """Return whether there is a GPU or similar, and the environment does not ask for the CPU."""
    import torch

    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.accelerator.is_available() and not wants_cpu


@contextmanager
def _environment() -> Iterator[None]:
    """Set environment variables of the launcher and its processes in this context."""
    values = {LAUNCHER_VARIABLE: str(os.getpid())}
    if not has_accelerator():
        values["ACCELERATE_USE_CPU"] = "true"  # otherwise each process would train alone
    if Path.cwd() != Path(__file__).resolve().parents[2]:
        # `python -m` puts the working folder first on the search path, so that a user's evaluate.py would hide a
        # package.
        values["PYTHONSAFEPATH"] = "1"
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _signals_passed_on() -> Iterator[list[int]]:
    """Forward stop signals to the processes that this one has started, in this context.

    Yields:
        The signals forwarded so far.
    """
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        processes = _children()
        if not processes:
            raise SystemExit(EXIT_SIGNAL_BASE + number)
        received.append(number)
        for pid in processes:
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # it has ended in the meantime
                continue

    with handling(dict.fromkeys(STOP_SIGNALS, pass_on)):
        yield received


def _children() -> list[int]:
    """Return the ids of this process's children; torchrun starts each in its own session, out of reach of Ctrl-C."""
    import psutil

    return [child.pid for child in psutil.Process().children()]
