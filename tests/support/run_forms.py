"""What a run trains: a model, or an adapter on one; fault cases in which this can matter run in both forms."""

from typing import Any

import pytest

ADAPTER: dict[str, Any] = {
    "lora": {
        "r": 4,
        "lora_dropout": 0.2,
        "target_modules": ["all-linear", "lm_heads"],
        "modules_to_save": ["lyrics_to_dec_proj"],
    },
    "lora_plus_ratio": 4,
}
"""Keys of a run that trains an adapter, with everything that it may hold."""
FORMS = ("model", "adapter")
"""Forms of the weights of a run and its checkpoints."""
ADAPTER_WITHOUT_DROPOUT = {**ADAPTER, "lora": {**ADAPTER["lora"], "lora_dropout": 0.0}}
"""The same, for runs whose losses must not depend on random numbers."""
KEYS: dict[str, dict[str, Any]] = {"model": {}, "adapter": ADAPTER}
"""Form -> keys of a configuration."""
WEIGHTS_FILES = {"model": "model.safetensors", "adapter": "adapter_model.safetensors"}
"""Form -> file with the weights, in checkpoints and in what the run produces."""

in_both_forms = pytest.mark.parametrize("form", ["model", pytest.param("adapter", marks=pytest.mark.faults)])
"""A run of each form; that of an adapter only in `make test-faults`."""

FLOW_ADAPTER: dict[str, Any] = {
    "lora": {"r": 4, "lora_dropout": 0.2, "target_modules": ["all-linear"]},
    "lora_plus_ratio": 4,
}
"""Keys of a run that trains an adapter of a flow-matching model."""

FLOW: dict[str, Any] = {"caption_dropout": 0.2, "lyrics_dropout": 0.2, "timbre_reference": 0.5}
"""Keys of a run of such a model, with every random choice that it makes."""
