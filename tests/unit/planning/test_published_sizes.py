"""Memory of the published sizes by method: the targets, and the table of docs/hardware.md."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from songgen.config import RunConfig
from songgen.families.costs import BatchSize
from songgen.families.tokens.costs import TokenCosts, token_costs
from songgen.models import SongGenConfig
from songgen.planning.memory import Processes, StepSettings, estimate_memory

LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["attention", "cross_attention", "feed_forward"]}
QLORA = {**LORA, "quantization": "nf4"}
AGAIN = {"gradient_checkpointing": True}

METHODS: dict[str, tuple[dict[str, Any], bool]] = {
    "all weights": ({}, True),
    "all weights, checkpointing": (AGAIN, True),
    "all weights, checkpointing, `adamw_8bit`": ({**AGAIN, "optimizer": "adamw_8bit"}, True),
    "LoRA": ({"lora": LORA}, True),
    "LoRA, checkpointing": ({"lora": LORA, **AGAIN}, True),
    "LoRA, checkpointing, features from the cache": ({"lora": LORA, **AGAIN}, False),
    "QLoRA, checkpointing": ({"lora": QLORA, **AGAIN}, True),
    "QLoRA, checkpointing, features from the cache": ({"lora": QLORA, **AGAIN}, False),
}
"""Method -> keys, and whether the frozen encoders are in memory."""

FRAMES = {"10 s": 500, "30 s": 1500}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the published mixed_pro model, without weights."""
    folder = tmp_path_factory.mktemp("published")
    SongGenConfig().save(folder)
    return folder


def costs_of(model: Path, keys: dict[str, Any], *, encoders: bool) -> TokenCosts:
    required = {"model_name_or_path": str(model), "save_to_disk": "d", "output_dir": "o", "dtype": "bfloat16"}
    costs = token_costs(RunConfig.from_dict({**required, "add_vocal_loss": True, **keys}))
    return costs if encoders else replace(costs, encoders={})


def total(costs: TokenCosts, length: str, optimizer: str) -> float:
    """GB of one clip with 60 tokens of caption, 300 of lyrics, and 3 s of voice."""
    batch = costs.batch(BatchSize(1, FRAMES[length], 60, 300, 72_000), "cuda")
    return estimate_memory(costs, batch, StepSettings(optimizer=optimizer), Processes(), "cuda").total / 1e9


@pytest.fixture(scope="module")
def table(model: Path) -> dict[str, tuple[float, float, float]]:
    """Method -> millions of trained weights, GB for 10 s, GB for 30 s."""
    rows = {}
    for method, (keys, encoders) in METHODS.items():
        costs, optimizer = costs_of(model, keys, encoders=encoders), keys.get("optimizer", "adamw")
        rows[method] = (costs.weights.trained / 1e6, *(total(costs, length, optimizer) for length in FRAMES))
    return rows


def test_the_published_size_is_counted_exactly(table: dict[str, tuple[float, float, float]]) -> None:
    assert table["all weights"][0] == pytest.approx(522.8, abs=0.05)


def test_an_adapter_needs_less_than_6_gb_and_less_than_4_on_a_base_of_4_bits(
    table: dict[str, tuple[float, float, float]],
) -> None:
    """The targets: with features from the cache there is room; with the encoders in memory, short clips fit."""
    assert max(table["LoRA, checkpointing, features from the cache"][1:]) < 6
    assert max(table["QLoRA, checkpointing, features from the cache"][1:]) < 4
    assert table["LoRA, checkpointing"][1] < 6


def test_the_page_has_these_numbers(table: dict[str, tuple[float, float, float]], repository_root: Path) -> None:
    page = (repository_root / "docs" / "hardware.md").read_text(encoding="utf-8")
    for method, (trained, short, long) in table.items():
        row = f"| {method} | {trained:.1f} | {short:.1f} GB | {long:.1f} GB |"
        assert row in page, f"missing in docs/hardware.md:\n{row}"
    assert len(re.findall(r"^\| [^|]+ \| [^|]+ \| [^|]+ GB \| [^|]+ GB \|$", page, re.MULTILINE)) == len(table)
