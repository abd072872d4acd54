"""What is known of torch only by trying: how its operations fail when a process is gone."""

import multiprocessing
import os
import re
import signal
import socket
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from limits import SAFETY_SECONDS
from torch import distributed

from songgen.runtime import private_names
from songgen.runtime.private_names import is_lost_connection

OPERATIONS = ("all_reduce", "broadcast", "all_gather", "barrier")
ROOT = Path(__file__).resolve().parents[3]


def fail_to_reach_a_killed_peer(rank: int, port: int, operation: str, result: Connection) -> None:
    """Tell what an operation raises on process 0 after process 1 was killed."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    values = torch.ones(2)
    distributed.all_reduce(values)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    call = {
        "all_reduce": lambda: distributed.all_reduce(values),
        "broadcast": lambda: distributed.broadcast(values, src=1),
        "all_gather": lambda: distributed.all_gather([torch.empty(2), torch.empty(2)], values),
        "barrier": distributed.barrier,
    }[operation]
    try:
        call()
        result.send((False, "nothing was raised"))
    except Exception as error:
        result.send((is_lost_connection(error), f"{type(error).__name__}: {error}"))
    os._exit(0)  # the group cannot be ended in order without the other process


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_killed_process_is_known_by_what_the_operation_raises(operation: str) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = int(server.getsockname()[1])
    processes = [
        context.Process(target=fail_to_reach_a_killed_peer, args=(rank, port, operation, theirs)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        assert ours.poll(120), "the operation hangs"
        known, what = ours.recv()
    finally:
        for process in processes:
            process.kill()
            process.join(SAFETY_SECONDS)
    assert known, what


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot open songs/gloomy/gloo.wav"),
        ValueError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_are_not_lost_connections(error: Exception) -> None:
    assert not is_lost_connection(error)


def test_private_names_are_used_in_one_module_alone() -> None:
    """Names of our own are private to their module or object; those of others begin with an underscore elsewhere."""
    pattern = re.compile(
        r"import .*distributed_c10d|torch\.utils\.data\._utils|\btorch\._[a-z]"
        r"|\b(?:iterator|parameter|module|optimizer|engine|scaler|accelerator)\._[a-z]"
        r"|[\"']_(?:forward|backward|state_dict|load_state_dict|parameters|buffers|modules)\w*[\"']"  # for getattr
        r"|\bdef _(?:apply|call_impl|load_from_state_dict|save_to_state_dict)\("  # overridden
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "songgen").rglob("*.py"))
        if path.name != Path(private_names.__file__).name
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_torch_and_deepspeed_have_an_upper_bound() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert re.search(r'"torch>=[\d.]+,<[\d.]+"', setup) and re.search(r'"deepspeed>=[\d.]+,<[\d.]+', setup)
    checked = re.search(r"torch (\d+\.\d+)\.\d+", private_names.__doc__ or "")
    assert checked is not None and f"torch=={checked[1]}." in (ROOT / "constraints.txt").read_text(encoding="utf-8")
