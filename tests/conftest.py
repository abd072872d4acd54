"""What holds for every test: one thread, no network, nothing written to the user's caches."""

import ipaddress
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

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
