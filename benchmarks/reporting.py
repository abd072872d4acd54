"""What the benchmarks share: the machine they name, and timing of rivals that take turns."""

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
    """Median of some rounds."""

    wall: float
    """Seconds that passed."""

    cpu: float
    """Seconds that this process computed, over all of its threads; other programs change it less."""


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Name processor or GPU, threads, how busy the machine is, and the torch that runs."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    load = os.getloadavg()[0]
    return (
        f"{_processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load average {load:.1f}, torch {torch.__version__}"
    )


def _processor_name() -> str:
    """Name of the processor as Linux tells it, elsewhere what Python knows."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    rivals: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, Timing]:
    """Call each rival once a round, so that whatever else the machine does hits all of them alike.

    Every other round goes backwards: none of them always runs on the caches of the same predecessor.
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
