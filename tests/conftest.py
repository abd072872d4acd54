"""What holds for every test: one thread, no network, nothing written to the user's caches."""

import ipaddress
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tqdm import tqdm
from warden import VARIABLE, end, is_lasting, marked_processes, start_warden

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MPLBACKEND": "Agg",
}
"""Set before any library is imported; tests' own processes inherit it. The hub's client reads it only then."""

CREDENTIALS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")

_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Its thread may hold the bars' lock at the moment of a fork; the child would wait for it for ever.
tqdm.monitor_interval = 0

os.environ.update(ENVIRONMENT)
for _name in CREDENTIALS:
    os.environ.pop(_name, None)
if not _IS_WORKER:
    os.environ["HF_HOME"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="songgen-tests-")


# What this process starts carries its name; the warden ends what is left of that when this process has ended.
NAME = os.environ[VARIABLE] = secrets.token_hex(8)
_WARDEN = start_warden(NAME)

_STARTED: list[str] = []
"""Events of this process that started another one, since the beginning of the test."""


_SHARED: set[int] = set()
"""Processes of shared fixtures."""


def _note_start(event: str, arguments: tuple[Any, ...]) -> None:
    """Note that a process was started."""
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "pty.spawn"):
        _STARTED.append(event)


sys.addaudithook(_note_start)


def pytest_configure() -> None:
    """Let a batch system's SIGTERM end the tests as Ctrl-C does, so that every fixture cleans up."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def pytest_unconfigure() -> None:
    """Remove the caches of this run."""
    if not _IS_WORKER:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """Undo what a run in this process does to logging and warnings: it writes to a stream that ends with the test."""
    loggers = [logging.getLogger(name) for name in ("", "songgen")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    show = warnings.showwarning
    yield
    warnings.showwarning = show
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = list(handlers), level, propagate


def _running() -> set[int]:
    """Return what runs of all that this process has started, also what has lost its parent since."""
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    return {pid for pid in own | marked_processes(NAME) if not is_lasting(pid)} - {_WARDEN.pid}


@pytest.fixture(autouse=True)
def nothing_outlives_a_test() -> Iterator[None]:
    """Kill what a test has started and left running, whatever came of it; shared fixtures end their own."""
    if _STARTED:  # by shared fixtures, since the last test
        _SHARED.update(_running())
        _STARTED.clear()
    yield
    if _STARTED or multiprocessing.active_children():
        if "wandb" in sys.modules:  # it keeps a service for later runs, and does not notice that it is gone
            sys.modules["wandb"].teardown()
        end(_running() - _SHARED)
        _STARTED.clear()
        for child in multiprocessing.active_children():  # collects those that have just been killed
            child.join(0.1)


def is_local(address: Any) -> bool:
    """Whether a socket address stays on this machine: a path, or a loopback address."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Refuse every connection that leaves this machine, and fail the test that tried, even if it caught the error."""
    attempts: list[Any] = []
    for method in ("connect", "connect_ex"):
        original = getattr(socket.socket, method)

        def guarded(self: socket.socket, address: Any, original: Any = original) -> Any:
            if not is_local(address):
                attempts.append(address)
                raise OSError(f"tests do not use the network: {address}")
            return original(self, address)

        monkeypatch.setattr(socket.socket, method, guarded)
    yield attempts
    if attempts:
        pytest.fail(f"the test tried to reach {attempts}")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """Folder of the repository."""
    return Path(__file__).resolve().parents[1]
