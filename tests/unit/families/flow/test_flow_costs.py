"""The account of a flow model's memory, compared with what PyTorch keeps and allocates in real steps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from flow_fakes import SIZE, counted_model, forward_of_flow, planned_flow
from memory_counting import kept_bytes, peak_bytes
from peft import LoraConfig, inject_adapter_in_model

from songgen.data.schema import LATENTS
from songgen.families.costs import AdapterPlan
from songgen.families.flow import forward_walk
from songgen.families.flow.costs import FlowCosts
from songgen.families.flow.model import FlowModel
from songgen.planning.memory import Processes, StepSettings, estimate_memory

TOLERANCE = 0.15

CASES: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "all weights": (2, False, {}),
    "all weights of one clip, bfloat16": (1, False, {"dtype": "bfloat16"}),
    "all weights, computed again": (2, False, {"gradient_checkpointing": True}),
    "conditions frozen": (2, False, {"freeze": ["conditions"]}),
    "adapter, bfloat16": (2, True, {"dtype": "bfloat16"}),
    "adapter, bfloat16, computed again": (2, True, {"dtype": "bfloat16", "gradient_checkpointing": True}),
}
"""Case -> clips, whether an adapter is trained, and keys of the run."""


@pytest.fixture(autouse=True)
def _short_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timbre reference: of a tiny transformer, it would be most of the memory."""
    monkeypatch.setattr(forward_walk, "REFERENCE_FRAMES", 60)


def with_adapter(model: FlowModel, costs: FlowCosts) -> FlowCosts:
    """Attach an adapter to all attention layers, and return the costs with it."""
    linear = {name for name, module in model.transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    names = sorted(name for name in linear if "_attn." in name)
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=8, target_modules=names), model.transformer)
    return replace(costs, trained=frozenset(), plan=AdapterPlan({f"transformer.{name}": 8 for name in names}))


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_and_the_peak_are_estimated_within_15_percent(case: str) -> None:
    clips, adapts, keys = CASES[case]
    model, size = counted_model(), replace(SIZE, clips=clips)
    config, costs = planned_flow(model, **keys)
    if config.model.gradient_checkpointing:
        for network in (model.transformer, model.condition_encoder):
            network.enable_gradient_checkpointing()
    if adapts:
        costs = with_adapter(model, costs)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in costs.trained)
    assert costs.weights.trained == sum(entry.numel() for entry in model.parameters() if entry.requires_grad)
    forward = forward_of_flow(model, size, half=config.training.dtype == "bfloat16")
    batch = costs.batch(size, "cpu")
    if not (adapts and config.model.gradient_checkpointing):  # a frozen encoder's inputs are only noted, then freed
        assert sum(batch.kept.values()) == pytest.approx(kept_bytes(model, forward), rel=TOLERANCE)

    def step() -> None:
        forward().backward()
        model.zero_grad()

    estimate = estimate_memory(costs, batch, StepSettings(), Processes(), "cpu")
    weights = {"trained weights", "frozen weights", "optimizer state"}
    lasting = sum(term.size for term in estimate.terms if term.name in weights)
    assert estimate.tensors - lasting == pytest.approx(peak_bytes(step), rel=TOLERANCE)


def test_operations_grow_with_the_song_and_with_what_is_trained() -> None:
    """Twice the products for twice the frames, more for attention; an adapter saves those of the frozen weights."""
    model = counted_model()
    _, costs = planned_flow(model)
    short, long = (costs.batch(replace(SIZE, frames=frames), "cpu").operations for frames in (240, 480))
    assert 1.3 * short < long < 3 * short  # the conditions take the same
    adapted = with_adapter(model, costs).batch(SIZE, "cpu").operations
    assert 0.3 * short < adapted < 0.8 * short


def test_data_of_another_autoencoder_does_not_fit() -> None:
    _, costs = planned_flow(counted_model())
    info = type("Info", (), {"target_kind": LATENTS, "num_channels": 64, "sample_rate": 48_000})
    assert costs.misfits(info) == ["channels: 8 in the model, 64 in the data"]
