"""A Demucs of a few thousand parameters with random weights, saved as a folder."""

from pathlib import Path

import pytest
import torch


def save_tiny_demucs(folder: Path) -> Path:
    """Save the model; the test is skipped where demucs is not installed."""
    htdemucs = pytest.importorskip("demucs.htdemucs", reason="demucs (prepare extra) is not installed")
    from songgen.generation.demucs_weights import save_demucs

    torch.manual_seed(0)
    network = htdemucs.HTDemucs(
        ["drums", "vocals"], channels=16, depth=2, t_layers=1, t_heads=2, nfft=512, samplerate=11_025, segment=1
    )
    save_demucs(network, folder, "small")
    return folder
