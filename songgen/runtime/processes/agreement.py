"""Agreement of processes: shared results, and whether all of them succeeded. No pickle is exchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.state import PartialState
from torch import Tensor, distributed

from songgen.exit_codes import EXIT_ERROR
from songgen.runtime.processes.group import is_started

_Result = TypeVar("_Result")


def all_succeeded(success: bool) -> bool:
    """Return whether every process succeeded. Every process must call this; it is also a barrier."""
    if not _several():
        return success
    flag = torch.tensor([int(success)], dtype=torch.int64, device=_device())
    distributed.all_reduce(flag, op=distributed.ReduceOp.MIN)
    return bool(flag.item())


def from_main(rank: int, compute: Callable[[], Any]) -> Any:
    """Compute a JSON value on the main process and return it on all. Every process must call this.

    Args:
        rank: rank of this process; only rank 0 computes.
        compute: function that returns a JSON value.

    Raises:
        ValueError: if the computation failed; every process raises it with the same message.
    """
    answer, cause = _told_by_main(rank == 0, lambda: {"value": compute()})
    if "error" in answer:
        raise ValueError(answer["error"]) from cause
    return answer["value"]


def on_main_process(state: PartialState, action: Callable[[], _Result]) -> _Result | None:
    """Run an action on the main process while the others wait; all of them end if it fails.

    Args:
        state: this process in the launch.
        action: function to run; its result is not exchanged.

    Returns:
        The result of the action; None on the other processes.

    Raises:
        SystemExit: on the other processes, if the main one failed; that one raises and reports the error itself. All
            processes have the error's `exit_code`, if it has one: a launcher reports the first process that ends.
    """
    results: list[_Result] = []

    def act() -> dict[str, Any]:
        results.append(action())
        return {}

    answer, cause = _told_by_main(state.is_main_process, act)
    if cause is not None:
        raise cause
    if "error" in answer:
        raise SystemExit(answer["exit_code"])
    return results[0] if results else None


def _told_by_main(is_main: bool, act: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], Exception | None]:
    """Call a function on the main process and send its result, or its error, to all.

    Args:
        is_main: whether this is the main process.
        act: function that returns a JSON object.

    Returns:
        The object, or `{"error": message, "exit_code": code}`; and, on the main process, the error itself.
    """
    answer: dict[str, Any] = {}
    cause: Exception | None = None
    if is_main:
        try:
            answer = act()
        except Exception as error:  # any error: the other processes wait for an answer
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            answer = {"error": message, "exit_code": getattr(error, "exit_code", EXIT_ERROR)}
            cause = error
    if _several():
        answer = json.loads(_broadcast(json.dumps(answer)))
    return answer, cause


def gather_lists(values: list[Any]) -> list[list[Any]]:
    """Gather lists of JSON values from all processes, in the order of their ranks. Every process must call this."""
    if not _several():
        return [values]
    data = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8).to(_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=data.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(data)], device=data.device))
    lengths = [int(size.item()) for size in sizes]
    # `all_gather` needs tensors of the same length: pad to the longest, and cut after the exchange.
    padded = torch.nn.functional.pad(data, (0, max(lengths) - len(data)))
    shares = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(shares, padded)
    texts = [bytes(share[:length].cpu().numpy()) for share, length in zip(shares, lengths, strict=True)]
    return [json.loads(text) for text in texts]


def _broadcast(text: str) -> str:
    """Return the main process's text on every process."""
    device = _device()
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
    # The length first, so that the other processes can allocate the tensor to receive.
    length = torch.tensor([len(data)], dtype=torch.int64, device=device)
    distributed.broadcast(length, src=0)
    received: Tensor = data if distributed.get_rank() == 0 else data.new_empty(int(length.item()))
    distributed.broadcast(received, src=0)
    return bytes(received.cpu().numpy()).decode()


def _several() -> bool:
    """Return whether there are other processes."""
    return is_started() and distributed.get_world_size() > 1


def _device() -> torch.device:
    """Return a device whose tensors the processes can exchange: NCCL only exchanges those on a GPU."""
    if "gloo" in str(distributed.get_backend()) or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
