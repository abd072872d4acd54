"""Adapters that are a single weight file: all spellings of the same thing, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_fakes import make_adapter, outputs
from model_fakes import tiny
from safetensors.torch import save_file
from torch import Tensor

from songgen.adapters.apply import AdapterUse, attach_adapters
from songgen.adapters.choice import find_adapter
from songgen.adapters.folder import read_adapter
from songgen.adapters.peft_config import adapter_scale
from songgen.adapters.weight_file import parse

SPELLINGS = {
    "peft": ("base_model.model.a.b.lora_A.weight", "base_model.model.a.b.lora_B.weight"),
    "saved in training": ("a.b.lora_A.default.weight", "a.b.lora_B.default.weight"),
    "kohya": ("a.b.lora_down.weight", "a.b.lora_up.weight"),
    "early diffusers": ("a.b.lora.down.weight", "a.b.lora.up.weight"),
    "bare": ("a.b.lora_A", "a.b.lora_B"),
}
FIRST, SECOND = torch.arange(6.0).reshape(2, 3), torch.arange(8.0).reshape(4, 2)


def matrices(spelling: str = "peft", **more: Tensor) -> dict[str, Tensor]:
    first, second = SPELLINGS[spelling]
    return {first: FIRST, second: SECOND, **{f"a.b.{name}": tensor for name, tensor in more.items()}}


def stated(**values: Any) -> dict[str, str]:
    """The metadata of a file of diffusers."""
    values = {"r": 2, "target_modules": ["b"], **values}
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in values.items()})}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_adapter(spelling: str) -> None:
    config, weights = parse(matrices(spelling, alpha=torch.tensor(6.0)), {}, "file")
    assert weights.keys() == {"a.b.lora_A.weight", "a.b.lora_B.weight"}
    assert torch.equal(weights["a.b.lora_A.weight"], FIRST) and torch.equal(weights["a.b.lora_B.weight"], SECOND)
    assert (config.r, list(config.target_modules or ())) == (2, ["a.b"]) and adapter_scale(config, "a.b", 2) == 3


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({}, 1.0),
        (stated(lora_alpha=6), 3.0),
        (stated(lora_alpha=6, use_rslora=True), 6 / 2**0.5),
        (stated(lora_alpha=6, alpha_pattern={"^a.b": 1}), 0.5),
    ],
)
def test_without_an_alpha_the_metadata_say_the_scale(metadata: Mapping[str, str], scale: float) -> None:
    tensors = {name.replace("base_model.model.", "transformer."): tensor for name, tensor in matrices().items()}
    config, _ = parse(tensors, metadata, "file")
    assert adapter_scale(config, "transformer.a.b", 2) == pytest.approx(scale)
    both, _ = parse(matrices(alpha=torch.tensor(8.0)), metadata, "file")
    assert adapter_scale(both, "a.b", 2) == 4


def test_ranks_and_scales_of_each_layer() -> None:
    tensors = {
        f"layers.{number}.{part}.weight": torch.ones(shape)
        for number, rank in enumerate((2, 2, 3))
        for part, shape in (("lora_A", (rank, 4)), ("lora_B", (4, rank)))
    }
    alphas = {f"layers.{number}.alpha": torch.tensor(alpha) for number, alpha in enumerate((4.0, 1.0, 6.0))}
    config, _ = parse({**tensors, **alphas}, {}, "file")
    assert [adapter_scale(config, f"layers.{number}", rank) for number, rank in enumerate((2, 2, 3))] == [2, 0.5, 2]
    assert config.r == 2 and config.rank_pattern == {r"layers\.2": 3}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {}, "no matrices"),
        ({"a.weight": FIRST}, {}, "unknown weights: a.weight"),
        ({"a.lokr_w1": FIRST}, {}, "LoRA, rsLoRA and DoRA are read"),
        (matrices() | {"a.b.lora_B.bias": FIRST[0]}, {}, "unknown weights: a.b.lora_B.bias"),
        ({"a.b.lora_A.weight": FIRST}, {}, "without both matrices: a.b"),
        (matrices(set_weight=FIRST), {}, "without both matrices"),
        ({"a.b.alpha": FIRST[0, 0]}, {}, "without both matrices"),
        (matrices() | {"base_model.model.a.b.lora_B.weight": FIRST}, {}, "do not belong together"),
        (matrices(alpha=FIRST[0]), {}, "alpha of 3 values"),
        (matrices(alpha=torch.tensor(0.0)), {}, "lora_alpha: 0.0 is not above 0"),
        (matrices(dora_scale=torch.ones(3)), {}, "3 magnitudes for 4 outputs"),
        (matrices(dora_scale=torch.ones(1, 1, 4)), {}, "only those of outputs are read"),
        (matrices(), {"lora_adapter_metadata": "{"}, "JSON|Expecting"),
        (matrices(), {"lora_adapter_metadata": "[]"}, "not an object"),
        (matrices(), stated(r=5000), "not from 1 to 4096"),
        (
            matrices(),
            stated(auto_mapping={"parent_library": "os"}, eva_config=None, megatron_config={"x": 1}),
            "megatron",
        ),
        (matrices(), {"lora_adapter_metadata": '{"transformer.r": 2, "text_encoder.r": 2}'}, "several networks"),
    ],
)
def test_other_contents_are_refused(tensors: dict[str, Tensor], metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(tensors, metadata, "file")


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_an_adapter_of_a_token_model_is_read_from_such_a_file_too(tmp_path: Path, variant: dict[str, Any]) -> None:
    model, adapter = make_adapter(**variant)
    scale = adapter_scale(adapter.config, "any", 4)
    named = {name.removeprefix("base_model.model."): tensor for name, tensor in adapter.weights.items()}
    modules = {name.partition(".lora_")[0] for name in named}
    alphas = {f"{module}.alpha": torch.tensor(scale * 4) for module in modules}
    save_file({**named, **alphas}, tmp_path / "style.safetensors")
    again = tiny()
    attach_adapters(again, [AdapterUse(read_adapter(find_adapter(tmp_path)), "style")])
    assert torch.allclose(outputs(again), outputs(model), atol=1e-5)
