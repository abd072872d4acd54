"""The account of memory, compared with what PyTorch keeps and allocates in real steps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from account_fakes import SIZE, forward_of, in_run, planned, small_model
from memory_counting import kept_bytes, peak_bytes

from songgen.families.costs import FLOAT32, HALF, LAYERS
from songgen.planning.memory import Processes, StepSettings, estimate_memory

TOLERANCE = 0.15

LORA = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["attention", "feed_forward"]}


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mixed with vocal heads": ("mixed_pro", {}, {}),
    "dual, computed again": ("interleaving_A_V", {}, {"gradient_checkpointing": True}),
    "lyrics before the song, bfloat16": ("mixed", {"prompt_cross_attention": False}, {"dtype": "bfloat16"}),
    "rotary, conditions frozen": ("parallel_std", {"decoder": {"rope_embeddings": True}}, {"freeze_cross": True}),
    "adapter, mixed": ("mixed_pro", {}, {"lora": LORA, "dtype": "bfloat16"}),
    "adapter, dual, computed again": ("interleaving_A_V", {}, {"lora": LORA, "gradient_checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_and_the_peak_are_estimated_within_15_percent(case: str) -> None:
    """Kept bytes through autograd's own hooks; the peak through the allocator of the CPU, weights left out."""
    pattern, fields, keys = CASES[case]
    model = small_model(pattern, **fields)
    config, costs = planned(model, **keys)
    in_run(model, config)
    assert costs.weights.trained == sum(entry.numel() for entry in model.parameters() if entry.requires_grad)
    forward = forward_of(model, half=config.training.dtype == "bfloat16")
    batch = costs.batch(SIZE, "cpu")
    kept = kept_bytes(model, forward)
    assert sum(batch.kept.values()) == pytest.approx(kept, rel=TOLERANCE)

    def step() -> None:
        forward().backward()
        model.zero_grad()

    estimate = estimate_memory(costs, batch, StepSettings(), Processes(), "cpu")
    weights = {"trained weights", "frozen weights", "optimizer state"}
    lasting = sum(term.size for term in estimate.terms if term.name in weights)
    assert estimate.tensors - lasting == pytest.approx(peak_bytes(step), rel=TOLERANCE)


def test_weights_gradients_and_optimizer_state_are_those_of_a_real_step() -> None:
    model = small_model("mixed_pro")
    config, costs = planned(model, freeze=["decoder"], ema_decay=0.999)
    in_run(model, config)
    trained = [entry for name, entry in model.named_parameters() if name in costs.trained]
    optimizer = torch.optim.AdamW(trained, fused=True)
    forward_of(model, half=False)().backward()
    optimizer.step()
    batch = costs.batch(SIZE, "cpu")
    estimate = estimate_memory(costs, batch, StepSettings(keeps_average=True), Processes(), "cpu")
    terms = {term.name: term.size for term in estimate.terms}
    assert terms["trained weights"] == sum(entry.nbytes for entry in trained)
    assert terms["trained weights"] + terms["frozen weights"] == sum(entry.nbytes for entry in model.parameters())
    assert terms["gradients"] == sum(entry.grad.nbytes for entry in trained if entry.grad is not None)
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert terms["optimizer state"] == sum(value.nbytes for value in moments)
    assert terms["moving average"] == terms["trained weights"]


def test_frozen_layers_below_the_adapters_keep_nothing() -> None:
    """So a first adapter in the decoder frees the lyrics encoder's activations, which are large."""
    model = small_model("mixed")
    _, full = planned(model)
    _, adapted = planned(model, lora=LORA)
    assert full.batch(SIZE, "cuda").kept["lyrics encoder"] > 0
    assert adapted.batch(SIZE, "cuda").kept["lyrics encoder"] == 0


def test_interleaving_doubles_the_steps_and_a_batch_grows_in_proportion() -> None:
    def layers(pattern: str, clips: int) -> int:
        _, costs = planned(small_model(pattern))
        return costs.batch(replace(SIZE, clips=clips), "cuda").kept[LAYERS]

    assert layers("interleaving_A_V", 1) / layers("mixed", 1) == pytest.approx(2.0, rel=0.1)
    assert layers("mixed", 4) == 4 * layers("mixed", 1)


def test_sharding_divides_what_it_shares() -> None:
    _, costs = planned(small_model("mixed"))
    batch = costs.batch(SIZE, "cuda")

    def terms(processes: Processes) -> dict[str, int]:
        estimate = estimate_memory(costs, batch, StepSettings(), processes, "cuda")
        return {term.name: term.size for term in estimate.terms}

    one, zero2, fsdp = terms(Processes()), terms(Processes(4, "gradients")), terms(Processes(4, "weights"))
    assert zero2["optimizer state"] == one["optimizer state"] // 4
    assert zero2["gradients"] == one["gradients"] // 4 and zero2["trained weights"] == one["trained weights"]
    assert fsdp["trained weights"] == one["trained weights"] // 4
    assert fsdp["gathered layers"] == 2 * FLOAT32 * costs.weights.largest_block
    assert terms(Processes(4))["exchange of gradients"] == one["gradients"]


def test_quantized_bases_count_their_bits_and_8_bit_states_two_bytes() -> None:
    _, costs = planned(small_model("mixed"), lora={**LORA, "quantization": "nf4"})
    assert costs.plan is not None
    numbers = sum(costs.shapes[f"{name}.weight"].numel() for name in costs.plan.quantized)
    assert costs.weights.quantized_bytes == round(numbers * 4.127 / 8)
    batch = costs.batch(SIZE, "cuda")
    for optimizer, each in (("adamw", 8), ("adamw_8bit", 2)):
        estimate = estimate_memory(costs, batch, StepSettings(optimizer=optimizer), Processes(), "cuda")
        assert (
            next(term.size for term in estimate.terms if term.name == "optimizer state") == each * costs.weights.trained
        )


def test_weights_in_16_bits_have_float32_copies() -> None:
    _, costs = planned(small_model("mixed"), dtype="bfloat16")
    costs = replace(costs, stream=HALF)
    estimate = estimate_memory(costs, costs.batch(SIZE, "cuda"), StepSettings(), Processes(), "cuda")
    terms = {term.name: term.size for term in estimate.terms}
    assert terms["trained weights"] == terms["gradients"] == HALF * costs.weights.trained
    assert terms["float32 copies of the trained weights"] == FLOAT32 * costs.weights.trained
