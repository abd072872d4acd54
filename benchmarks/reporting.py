"""Common parts of the benchmarks: a description of the machine, and timing of competitors in turns."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """Median times of several rounds."""

    wall: float
    """Wall-clock time in seconds."""

    cpu: float
    """CPU time of all threads of this process in seconds, which other programs affect less."""


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Return the names of processor or GPU, number of threads, load of the machine and version of torch."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    load = os.getloadavg()[0]
    return (
        f"{_processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load average {load:.1f}, torch {torch.__version__}"
    )


def _processor_name() -> str:
    """Return the name of the processor from Linux, or on other systems from Python."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has finished all work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    rivals: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, Timing]:
    """Call each competitor once per round, so that other load on the machine affects all of them equally.

    Every other round is in reverse order, so that none of them always runs on the caches of the same predecessor.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for place in range(rounds):
        for name in list(rivals)[:: -1 if place % 2 else 1]:
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            rivals[name]()
            synchronize(device)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(statistics.median(wall for wall, _ in found), statistics.median(cpu for _, cpu in found))
        for name, found in times.items()
    }
