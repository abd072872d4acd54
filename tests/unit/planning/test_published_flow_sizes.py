"""Memory of the published flow models by method: the table of docs/hardware.md."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_flow import write_tiny_pipeline

from songgen.config import RunConfig
from songgen.families.costs import BatchSize
from songgen.families.flow.costs import FlowCosts, flow_costs
from songgen.planning.memory import Processes, StepSettings, estimate_memory

XL = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "encoder_hidden_size": 2048,
}  # fmt: skip
MODELS = {"2B": {}, "XL": XL}
"""Model -> keys of the transformer's configuration that are not the defaults of diffusers."""

LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["attention", "cross_attention", "feed_forward"]}
QLORA = {**LORA, "quantization": "nf4"}
AGAIN, HALF = {"gradient_checkpointing": True}, {"weights_dtype": "bfloat16"}

METHODS: dict[str, dict[str, Any]] = {
    "all weights, checkpointing, `adamw_8bit`": {**AGAIN, "optimizer": "adamw_8bit"},
    "LoRA": {"lora": LORA},
    "LoRA, checkpointing": {"lora": LORA, **AGAIN},
    "LoRA, checkpointing, `weights_dtype` bfloat16": {"lora": LORA, **AGAIN, **HALF},
    "QLoRA, checkpointing": {"lora": QLORA, **AGAIN},
    "QLoRA, checkpointing, `weights_dtype` bfloat16": {"lora": QLORA, **AGAIN, **HALF},
}

SECONDS, FRAME_RATE, CAPTION, LYRICS = (30, 60, 240), 25, 150, 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose configurations a test replaces; no weight is read."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("published") / "model")


def costs_of(folder: Path, model: str, keys: dict[str, Any]) -> FlowCosts:
    for part, config in (("transformer", MODELS[model]), ("condition_encoder", {})):
        (folder / part / "config.json").write_text(json.dumps(config))
    required = {"model_name_or_path": str(folder), "save_to_disk": "d", "output_dir": "o", "dtype": "bfloat16"}
    return flow_costs(RunConfig.from_dict({**required, "condition_dropout": 0.0, **keys})).with_captions(0)


@pytest.mark.parametrize("model", MODELS)
def test_the_page_has_these_numbers(folder: Path, model: str, repository_root: Path) -> None:
    page = (repository_root / "docs" / "hardware.md").read_text(encoding="utf-8")
    for method, keys in METHODS.items():
        costs, settings = costs_of(folder, model, keys), StepSettings(optimizer=keys.get("optimizer", "adamw"))
        sizes = []
        for seconds in SECONDS:
            batch = costs.batch(BatchSize(1, seconds * FRAME_RATE, CAPTION, LYRICS, 0), "cuda")
            sizes.append(estimate_memory(costs, batch, settings, Processes(), "cuda").total / 1e9)
        listed = " | ".join(f"{size:.1f} GB" for size in sizes)
        row = f"| {model} | {method} | {costs.weights.trained / 1e6:,.1f} | {listed} |"
        assert row in page, f"missing in docs/hardware.md:\n{row}"
    assert len(re.findall(rf"^\| {model} \|", page, re.MULTILINE)) == len(METHODS)


def test_the_published_size_is_counted_exactly(folder: Path) -> None:
    """Of the 2B model, diffusers' own defaults, layer by layer."""
    width, inner, queries, keys = 2048, 6144, 16 * 128, 8 * 128
    attention = 2 * width * queries + 2 * width * keys + 2 * 128
    layer = 2 * attention + 3 * width * inner + 3 * width + 6 * width
    time = (256 + 1) * width + (width + 1) * width + (width + 1) * 6 * width
    patches = 2 * 192 * width + width + 2 * 64 * width + 64
    transformer = 24 * layer + 2 * time + (width + 1) * width + patches + width + 2 * width
    encoder_layer = attention + 3 * width * inner + 2 * width
    encoders = (8 + 4) * encoder_layer + (1024 + 1) * width + (64 + 1) * width + 2 * width + width
    encoder = encoders + 1024 * width + width
    assert costs_of(folder, "2B", {}).weights.total == transformer + encoder
