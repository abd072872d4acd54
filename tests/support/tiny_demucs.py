"""A Demucs of a few thousand parameters with random weights, saved as a folder."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from songgen.generation.demucs_weights import NETWORKS


def save_tiny_demucs(folder: Path) -> Path:
    """Save the model; the test is skipped where demucs is not installed."""
    htdemucs = pytest.importorskip("demucs.htdemucs", reason="demucs (prepare extra) is not installed")
    torch.manual_seed(0)
    network = htdemucs.HTDemucs(
        ["drums", "vocals"], channels=16, depth=2, t_layers=1, t_heads=2, nfft=512, samplerate=11_025, segment=1
    )
    save_demucs(network, folder, "small")
    return folder


def save_demucs(network: Any, folder: Path, name: str) -> None:
    """Write one network as a model folder that `load_demucs` reads.

    Args:
        network: instance of one of `NETWORKS`, with the record of its arguments that demucs keeps.
        folder: made if needed.
        name: of the model.
    """
    args, kwargs = network._init_args_kwargs
    kind = type(network)
    metadata = {
        "klass": f"{kind.__module__}.{kind.__qualname__}",
        "args": json.dumps(args, default=_encode_fraction),
        "kwargs": json.dumps(kwargs, default=_encode_fraction),
    }
    assert metadata["klass"] in NETWORKS, metadata["klass"]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, str(folder / f"{name}-0.safetensors"), metadata)
    (folder / f"{name}.yaml").write_text(f"models: ['{name}-0']\n", encoding="utf-8")


def _encode_fraction(value: Any) -> dict[str, Any]:
    """Write a fraction as demucs does."""
    if not isinstance(value, Fraction):
        raise TypeError(f"{value!r} cannot be written as JSON")
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
