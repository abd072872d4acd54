"""The processes of a launch: who this one is, and steps that the main one does for all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate.state import PartialState
from accelerate.utils import broadcast, parse_flag_from_env

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR

_Result = TypeVar("_Result")

WAIT = timedelta(days=7)
"""How long a process waits for the slowest; one that dies ends the launch at once, so that a long wait is safe."""


@contextmanager
def join_processes() -> Iterator[PartialState]:
    """Give this process its place among those launched, for the length of the block.

    Raises:
        ValueError: if several processes were started that do not know of each other, and would write the same files.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=WAIT)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and state.num_processes == 1:
        raise ValueError(
            f"{launched} processes were launched but do not see each other; "
            "without a GPU set ACCELERATE_USE_CPU=true in the environment of the launch"
        )
    try:
        yield state
    finally:
        if state.num_processes > 1:
            state.destroy_process_group()


def on_main_process(state: PartialState, action: Callable[[], _Result]) -> _Result | None:
    """Let the main process do something while the others wait; all stop when it fails.

    Returns:
        what the action returns; None in the other processes.

    Raises:
        SystemExit: in the other processes, when the main one failed; that one raises what went wrong. Its
            `exit_code`, where the error has one, is that of all processes: a launcher reports the first to end.
    """
    result: _Result | None = None
    error: Exception | None = None
    if state.is_main_process:
        try:
            result = action()
        except Exception as caught:  # raised again below, after the others were told
            error = caught
    code = EXIT_DONE if error is None else getattr(error, "exit_code", EXIT_ERROR)
    told = broadcast(torch.tensor([code], dtype=torch.int32, device=state.device))
    if error is not None:
        raise error
    if told.item() != EXIT_DONE:
        raise SystemExit(int(told.item()))
    return result
