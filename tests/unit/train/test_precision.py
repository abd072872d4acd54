"""Weights in 16 bits: trained as float32 ones, shown to the model rounded, saved whole."""

import logging
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from torch.amp import GradScaler
from training_fakes import CODEBOOKS, make_batch, tiny_model, tiny_objective

from songgen.adapters.attach import attach
from songgen.adapters.options import AdapterOptions
from songgen.adapters.quantization import quantize
from songgen.adapters.targets import find_targets
from songgen.families.adapters import quantized_layers
from songgen.families.tokens.parameter_groups import TOKEN_GROUPS, TOKEN_LAYERS
from songgen.families.trainable import Trainable
from songgen.models import SongGenForConditionalGeneration
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.engine import AcceleratedEngine, GradientLimit
from songgen.train.optimization.master_weights import (
    MasterWeights,
    cast_weights,
    describe_precision,
    require_possible_weights,
)
from songgen.train.optimization.named_tensors import gather_tensors
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.train.step import Outcome, TrainingStep

WEIGHTS = torch.ones(CODEBOOKS) / CODEBOOKS
SIXTEEN_BITS = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def no_launch() -> Iterator[None]:
    """Accelerate remembers the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def make_step(
    model: SongGenForConditionalGeneration,
    dtype: torch.dtype | None = None,
    *,
    autocast: bool = True,
    frozen: tuple[str, ...] = (),
    rate: float = 1e-2,
    scaler: GradScaler | None = None,
) -> TrainingStep:
    """A training step of weights in a precision (None: float32), with autocast to bfloat16 where it is asked for.

    Accelerate scales losses on a GPU alone: a scaler is put in by hand.
    """
    accelerator = Accelerator(cpu=True, mixed_precision="fp16" if scaler else "bf16" if autocast else "no")
    accelerator.scaler = scaler  # type: ignore[assignment]
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=frozen)
    masters = None
    if dtype is not None:
        masters = MasterWeights(trainable.parameters(model))
        cast_weights(model, dtype)
    optimizer = build_optimizer(model, trainable, OptimizerOptions(rate, epsilon=1e-4), masters)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.native_amp = accelerator.native_amp or scaler is not None
    engine = AcceleratedEngine(accelerator, prepared, optimizer, trainable, masters)
    return TrainingStep(accelerator, engine, tiny_objective(model), GradientLimit(1.0))


def with_adapter(quantization: str = "none") -> SongGenForConditionalGeneration:
    """A model with an adapter on its blocks, which are quantized for products in float16 if asked for."""
    model = tiny_model()
    options = AdapterOptions(targets=("attention", "feed_forward"), rank=4, alpha=8, quantization=quantization)
    targets = find_targets(model, options, TOKEN_LAYERS.words, lambda name: False)
    if quantization != "none":
        names = quantized_layers(model, targets, TOKEN_LAYERS.quantized)
        quantize(model, names, quantization, compute_dtype=torch.float16, device=torch.device("cpu"))
    attach(model, options, targets, seed=0)
    return model


def train(step: TrainingStep, steps: int, first: int = 0) -> list[float]:
    return [step.run([make_batch([6, 3], seed=seed % 3)], WEIGHTS).loss for seed in range(first, first + steps)]


def test_the_model_has_the_rounded_copies_and_the_optimizer_trains_float32() -> None:
    model = tiny_model()
    start = {name: entry.detach().clone() for name, entry in model.named_parameters()}
    step = make_step(model, torch.bfloat16, frozen=("cross",))
    engine = step.engine
    assert {entry.dtype for entry in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(entry, start[name]) for name, entry in engine.parameters.items()), "not yet rounded"
    train(step, 3)
    shown = dict(model.named_parameters())
    for name, master in engine.parameters.items():
        assert master.dtype == torch.float32
        assert torch.equal(shown[name], master.to(torch.bfloat16))
        assert engine.optimizer.optimizer.state[master]["exp_avg"].dtype == torch.float32
    assert any(not torch.equal(master, shown[name].float()) for name, master in engine.parameters.items())
    frozen = set(shown) - set(engine.parameters)
    assert frozen and all(torch.equal(shown[name], start[name].to(torch.bfloat16)) for name in frozen)
    assert all(entry.grad is None for entry in model.parameters())


def test_losses_are_those_of_autocast_up_to_the_rounding_of_gradients() -> None:
    """The forward pass computes with the same rounded weights; float32 without autocast differs more."""
    autocast = train(make_step(tiny_model()), 30)
    AcceleratorState._reset_state(True)
    low = train(make_step(tiny_model(), torch.bfloat16), 30)
    assert low == pytest.approx(autocast, abs=0.02)
    assert low[0] == pytest.approx(autocast[0], abs=3e-3)
    assert autocast[-1] < autocast[0] - 0.2 and low[-1] < low[0] - 0.2


def test_without_float32_copies_small_updates_would_be_lost() -> None:
    """Why the copies are there: most weights that AdamW moves do not change in bfloat16."""
    bare, model = tiny_model(), tiny_model()
    cast_weights(bare, torch.bfloat16)
    before = {name: entry.detach().clone() for name, entry in bare.named_parameters()}
    optimizer = build_optimizer(bare, Trainable.choose(bare), OptimizerOptions(1e-5, weight_decay=0.0))
    step = make_step(model, torch.bfloat16, rate=1e-5)
    for seed in range(20):
        batch = make_batch([6, 3], seed=seed % 3)
        bare.train()(**batch.model_inputs(), codebook_weights=WEIGHTS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step.run([batch], WEIGHTS)
    moved = [
        (entry != before[name]).float().mean()
        for name, entry in bare.decoder.named_parameters()
        for name in [f"decoder.{name}"]
    ]
    masters = [(entry != before[name].float()).float().mean() for name, entry in step.engine.parameters.items()]
    assert float(torch.stack(moved).mean()) < 0.3 < 0.8 < float(torch.stack(masters).mean())


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
def test_a_resumed_run_continues_with_the_same_bits(dtype: torch.dtype) -> None:
    model = tiny_model()
    straight = make_step(model, dtype, autocast=dtype == torch.bfloat16)
    train(straight, 3)
    engine = straight.engine
    saved = gather_tensors(engine.parameters, keep=True), engine.optimizer_tensors(keep=True)
    assert {tensor.dtype for tensor in saved[0].values()} == {torch.float32}
    expected = train(straight, 3, first=3)
    other = tiny_model()
    AcceleratorState._reset_state(True)
    resumed = make_step(other, dtype, autocast=dtype == torch.bfloat16)
    train(resumed, 1)
    resumed.engine.load(*saved)
    assert train(resumed, 3, first=3) == expected
    for name, entry in model.named_parameters():
        assert torch.equal(entry, dict(other.named_parameters())[name]), name


def test_the_average_is_one_of_float32_weights_and_is_shown_rounded() -> None:
    model = tiny_model()
    step = make_step(model, torch.bfloat16)
    average = MovingAverage(step.engine.parameters, 0.5, step.engine.show_weights)
    for number in range(1, 4):
        train(step, 1, first=number)
        average.update(number)
    trained = {name: entry.detach().clone() for name, entry in model.named_parameters()}
    with average.applied():
        shown = dict(model.named_parameters())
        assert all(torch.equal(shown[name], value.to(torch.bfloat16)) for name, value in average.averages.items())
        assert any(not torch.equal(entry, trained[name]) for name, entry in shown.items())
    assert all(torch.equal(entry, trained[name]) for name, entry in model.named_parameters())


def test_float16_weights_are_scaled_clipped_and_skipped_like_others() -> None:
    expected = make_step(tiny_model(), None, autocast=False).run([make_batch([6, 3])], WEIGHTS)
    AcceleratorState._reset_state(True)
    model = tiny_model()
    scaler = GradScaler("cpu", init_scale=1024.0)
    step = make_step(model, torch.float16, scaler=scaler)
    found = step.run([make_batch([6, 3])], WEIGHTS)
    assert found.outcome is Outcome.UPDATED
    assert float(found.gradient_norm) == pytest.approx(float(expected.gradient_norm), rel=0.02), "not the scaled one"
    for name, master in step.engine.parameters.items():
        assert torch.equal(dict(model.named_parameters())[name], master.to(torch.float16))
    handle = model.enc_to_dec_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: entry.detach().clone() for name, entry in step.engine.parameters.items()}
    assert step.run([make_batch([6, 3])], WEIGHTS).outcome is Outcome.OVERFLOW
    handle.remove()
    assert scaler.get_scale() == 512
    assert all(torch.equal(entry, before[name]) for name, entry in step.engine.parameters.items())
    assert train(step, 1) and scaler.get_scale() == 512


@pytest.mark.parametrize("weights", [None, torch.float16])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_an_adapter_in_float16_is_scaled_and_skipped_like_weights(
    quantization: str, weights: torch.dtype | None
) -> None:
    """Over a base in float32 (autocast), float16, 4 bits and 8 bits. A run needs a GPU; its products do not."""
    expected = make_step(with_adapter(), None, autocast=False)
    reference = train(expected, 12)
    AcceleratorState._reset_state(True)
    model, scaler = with_adapter(quantization), GradScaler("cpu", init_scale=1024.0)
    step = make_step(model, weights, scaler=scaler)
    assert train(step, 12) == pytest.approx(reference, abs=0.02 if quantization == "none" else 0.1)
    engine = step.engine
    assert {entry.dtype for entry in engine.parameters.values()} == {torch.float32}
    assert all(".lora_" in name for name in engine.parameters) and scaler.get_scale() == 1024
    name = next(name for name in engine.parameters if "lora_B" in name)
    handle = dict(model.named_parameters())[name].register_hook(lambda gradient: gradient * float("inf"))
    before = {name: entry.detach().clone() for name, entry in engine.parameters.items()}
    assert step.run([make_batch([6, 3])], WEIGHTS).outcome is Outcome.OVERFLOW
    handle.remove()
    assert scaler.get_scale() == 512
    assert all(torch.equal(entry, before[name]) for name, entry in engine.parameters.items())


def test_only_float32_is_rounded() -> None:
    layer = nn.Module()
    layer.kept = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    layer.wide = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    layer.weight = nn.Parameter(torch.full((3,), 1 / 3))
    layer.register_buffer("table", torch.full((3,), 1 / 3))
    same = layer.weight
    cast_weights(layer, torch.bfloat16)
    assert layer.weight is same and layer.weight.dtype == layer.table.dtype == torch.bfloat16
    assert (layer.kept.dtype, layer.wide.dtype) == (torch.uint8, torch.float64)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_launches_are_refused_with_16_bit_weights(kind: DistributedType) -> None:
    with pytest.raises(ValueError, match=r"weights_dtype bfloat16.*ddp_8_gpus"):
        require_possible_weights("bfloat16", kind)
    require_possible_weights("float32", kind)


def test_what_is_lost_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_possible_weights("bfloat16", DistributedType.MULTI_GPU)
    assert "gradients" in caplog.text and "float32" in caplog.text
    assert describe_precision("float32", "float32") == "float32"
    assert "autocast" in describe_precision("bfloat16", "float32")
    assert "loss scaled" in describe_precision("float16", "float16")
    assert "weights too" in describe_precision("float16", "float16")
