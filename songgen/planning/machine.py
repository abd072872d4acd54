"""The machine of a run: devices and their memory, cores and main memory, and whether 8-bit and 4-bit really work."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import psutil
import torch

from songgen.runtime.processes.launcher import has_accelerator

TURING = (7, 5)
"""Compute capability of the first GPUs for which bitsandbytes's kernels work; Pascal (6.x) fails or is slow."""


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    """Name of the product."""
    total: int
    """Bytes of its memory."""
    free: int
    """Bytes that are free now."""
    capability: tuple[int, int] = (0, 0)
    """CUDA compute capability; (0, 0) for other makers."""


@dataclass(frozen=True)
class Machine:
    """Machine that a run is planned for."""

    devices: tuple[Device, ...] = ()
    """GPUs; none: the CPU computes."""
    cores: int = 1
    """Cores that this process may use."""
    memory: int = 0
    """Bytes of main memory."""
    free_memory: int = 0
    """Bytes of main memory that are free now."""

    @property
    def device_type(self) -> str:
        """Type of the device that computes: `cuda` or `cpu`."""
        return "cuda" if self.devices else "cpu"

    def room(self, processes: int) -> int:
        """Return the bytes that each of so many processes may use on its device."""
        if self.devices:
            return min(device.free for device in self.devices[: max(1, processes)])
        return self.free_memory // max(1, processes)

    def describe(self) -> str:
        """Return the machine as one line of text."""
        main = f"{self.cores} cores, {self.free_memory / 1e9:.1f} of {self.memory / 1e9:.1f} GB of main memory free"
        if not self.devices:
            return f"no GPU, {main}"
        first = self.devices[0]
        return f"{len(self.devices)} x {first.name} ({first.free / 1e9:.1f} of {first.total / 1e9:.1f} GB free), {main}"


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    memory = psutil.virtual_memory()
    devices = []
    if has_accelerator() and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            capability = torch.cuda.get_device_capability(index) if torch.version.cuda else (0, 0)
            devices.append(Device(torch.cuda.get_device_name(index), total, free, capability))
    return Machine(tuple(devices), len(os.sched_getaffinity(0)), memory.total, memory.available)


def low_precision_problem(kind: str, machine: Machine) -> str | None:
    """Return why 8-bit or 4-bit computation does not work on this machine; None if it does.

    A tiny product or update is computed with bitsandbytes: an installation that imports may still lack the kernels of
    the device.

    Args:
        kind: `adamw_8bit`, `int8` or `nf4`.
        machine: this machine.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return 'bitsandbytes is not installed: pip install -c constraints.txt -e ".[8bit]"'
    device = machine.device_type
    if machine.devices and (0, 0) < machine.devices[0].capability < TURING:
        return (
            f"{machine.devices[0].name} is older than Turing (compute capability "
            f"{'.'.join(map(str, machine.devices[0].capability))}), for which bitsandbytes has no fast kernels"
        )
    try:
        with torch.random.fork_rng(devices=range(len(machine.devices))):
            _PROBES[kind](device)
    except Exception as error:  # whatever the library raises
        return f"bitsandbytes does not work on this machine ({type(error).__name__}: {error})"
    return None


def _probe_optimizer(device: str) -> None:
    """Update 8-bit optimizer state once; tensors below 4,096 entries would be kept in 32 bits."""
    import bitsandbytes

    weight = torch.nn.Parameter(torch.ones(64, 128, device=device))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    if optimizer.state[weight]["state1"].dtype != torch.uint8 or not weight.isfinite().all():
        raise RuntimeError("the optimizer did not keep its state in 8 bits")


def _probe_nf4(device: str) -> None:
    """Quantize a matrix to 4 bits and bring it back; the blocks of a matrix of ones have no error."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4")
    if packed.numel() * packed.itemsize != 64 * 64 // 2 or not functional.dequantize_4bit(packed, state).allclose(
        torch.ones(64, 64, device=device), atol=1e-2
    ):
        raise RuntimeError("a matrix of ones was not the same after 4 bits")


def _probe_int8(device: str) -> None:
    """Multiply with an 8-bit layer."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    layer.weight.data.fill_(1.0)
    result = layer.to(device)(torch.ones(2, 64, device=device, dtype=torch.float16))
    if not result.float().allclose(torch.full_like(result.float(), 64.0), rtol=0.05):
        raise RuntimeError(f"64 ones added up to {float(result[0, 0]):g} in 8 bits")


_PROBES = {"adamw_8bit": _probe_optimizer, "nf4": _probe_nf4, "int8": _probe_int8}
