"""Choice of the device that networks run on."""

import torch


def choose_device(device: str) -> str:
    """Return the device that a configuration names; for an empty name, the GPU if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
