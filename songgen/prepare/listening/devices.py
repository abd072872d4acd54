"""Where networks run."""

import torch


def choose_device(device: str) -> str:
    """Return the device that a configuration names; for the empty name, an accelerator where there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
