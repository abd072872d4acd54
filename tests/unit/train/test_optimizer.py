"""The optimizer's groups and learning rates, and that its state survives by name."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training_fakes import make_batch, tiny_model

from songgen.families.tokens.parameter_groups import TOKEN_GROUPS
from songgen.families.trainable import Trainable
from songgen.train.optimization.deepspeed import ZeroEngine
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.engine import GradientLimit
from songgen.train.optimization.named_tensors import (
    copy_tensors,
    gather_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
)
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer, get_learning_rate, set_learning_rate
from songgen.train.optimization.sharding import whole_weights


def make_optimizer(model: nn.Module, learning_rate: float = 1e-2, **options: Any) -> torch.optim.Optimizer:
    return build_optimizer(model, Trainable.choose(model), OptimizerOptions(learning_rate, **options))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return Trainable.choose(model).parameters(model)


def test_groups_with_a_factor_get_their_own_learning_rate() -> None:
    model = tiny_model()
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=["cross"], learning_rate_factors={"heads": 0.1})
    optimizer = build_optimizer(model, trainable, OptimizerOptions(1e-3, weight_decay=0.1))
    heads = {entry for name, entry in model.named_parameters() if name.startswith("decoder.lm_heads.")}
    set_learning_rate(optimizer, 0.5)
    for group in optimizer.param_groups:
        assert group["lr"] == (0.05 if heads & set(group["params"]) else 0.5)
    assert get_learning_rate(optimizer) == 0.5
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]


def test_a_step_without_gradient_signal_shrinks_only_what_decays() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[0].bias)
    optimizer = make_optimizer(model, 0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model[0].weight, torch.full((3, 3), 0.95))
    torch.testing.assert_close(model[0].bias, torch.ones(3))
    torch.testing.assert_close(model[1].weight, torch.ones(3))


def test_nothing_to_train_and_a_missing_package_are_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install"):
        make_optimizer(nn.Linear(2, 2), name="adamw_8bit")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        model(**make_batch([4, 3], seed=step).model_inputs()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_state_by_name_continues_bit_for_bit_and_leaves_the_learning_rate_alone() -> None:
    model = tiny_model()
    optimizer = make_optimizer(model)
    train(model, optimizer, 3)
    weights = gather_tensors(trained(model), keep=True)
    state = gather_tensors(optimizer_tensors(trained(model), optimizer), keep=True)

    resumed = tiny_model()
    resumed_optimizer = make_optimizer(resumed)
    copy_tensors(trained(resumed), weights)
    load_optimizer_tensors(trained(resumed), resumed_optimizer, state)
    train(model, optimizer, 2, first=3)
    train(resumed, resumed_optimizer, 2, first=3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(resumed.named_parameters())[name]), name

    set_learning_rate(resumed_optimizer, 0.5)
    load_optimizer_tensors(trained(resumed), resumed_optimizer, state)
    assert [group["lr"] for group in resumed_optimizer.param_groups] == [0.5, 0.5]


def test_maps_and_counters_of_8_bit_state_go_back_to_where_they_were() -> None:
    """As bitsandbytes holds it: it would not move a map to the device once it has made a step."""
    model = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters())
    state = {"state1": torch.zeros(8, 8, dtype=torch.uint8), "qmap1": torch.arange(256.0), "step": 3}
    optimizer.state[model.weight] = state
    saved = gather_tensors(optimizer_tensors(trained(model), optimizer), keep=True)
    elsewhere = nn.Linear(8, 8, bias=False, device="meta")
    resumed = torch.optim.SGD(elsewhere.parameters())
    load_optimizer_tensors(trained(elsewhere), resumed, saved)
    restored = resumed.state[elsewhere.weight]
    assert {name: restored[name].device.type for name in ("state1", "qmap1")} == {"state1": "meta", "qmap1": "meta"}
    assert restored["state1"].dtype == torch.uint8
    assert type(restored["step"]) is int and restored["step"] == 3


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_parameters_are_saved_whole_and_continue_bit_for_bit(process_group: None) -> None:
    plain, sharded = tiny_model(), tiny_model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    assert isinstance(sharded.enc_to_dec_proj.weight, DTensor)
    optimizers = [make_optimizer(model) for model in (plain, sharded)]
    average = MovingAverage(trained(sharded), 0.9)
    for model, optimizer in zip((plain, sharded), optimizers, strict=True):
        train(model, optimizer, 2)
    average.update(2)
    saved = [gather_tensors(trained(model), keep=True) for model in (plain, sharded)]
    states = [
        gather_tensors(optimizer_tensors(trained(model), optimizer), keep=True)
        for model, optimizer in zip((plain, sharded), optimizers, strict=True)
    ]
    for first, second in (saved, states):
        assert first.keys() == second.keys()
        assert not any(isinstance(value, DTensor) for value in second.values())
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, msg=name)
    assert gather_tensors(average.averages, keep=True).keys() == saved[0].keys()
    assert gather_tensors(trained(sharded), keep=False) == {}

    resumed = tiny_model()
    fully_shard(resumed, mesh=init_device_mesh("cpu", (1,)))
    resumed_optimizer = make_optimizer(resumed)
    copy_tensors(trained(resumed), saved[1])
    load_optimizer_tensors(trained(resumed), resumed_optimizer, states[1])
    train(sharded, optimizers[1], 1, first=2)
    train(resumed, resumed_optimizer, 1, first=2)
    for first, second in zip(sharded.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first.full_tensor(), second.full_tensor())
    with whole_weights(resumed):
        assert not isinstance(resumed.enc_to_dec_proj.weight, DTensor)


def test_elements_of_sharded_gradients_are_clipped_like_whole_ones(process_group: None) -> None:
    plain, sharded = tiny_model(), tiny_model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    for model in (plain, sharded):
        model.train()(**make_batch([6, 3]).model_inputs()).loss.backward()
        GradientLimit(1e-3, by_element=True).clip_elements(
            entry.grad for entry in trained(model).values() if entry.grad is not None
        )
    clipped = 0
    for name, entry in trained(plain).items():
        if entry.grad is not None:
            assert torch.equal(trained(sharded)[name].grad.full_tensor(), entry.grad), name
            clipped += int((entry.grad.abs() == torch.tensor(1e-3)).sum())
    assert clipped > 10


def test_elements_of_the_partitions_of_zero_are_clipped_and_the_norm_is_that_before() -> None:
    """DeepSpeed's optimizer holds this process's piece of the averaged gradients, flat or not."""
    gradients = [torch.tensor([3.0, -4.0]), torch.tensor([[0.5, -0.0]])]
    engine = SimpleNamespace(optimizer=SimpleNamespace(averaged_gradients={0: gradients[:1], 1: gradients[1:]}))
    engine.device = torch.device("cpu")
    zero: Any = SimpleNamespace(
        optimizer=engine.optimizer, engine=engine, arrivals=[], _require_same_order=lambda: None
    )
    norm = ZeroEngine.clip_gradients(zero, GradientLimit(1.0, by_element=True))
    assert float(norm) == pytest.approx(25.25**0.5)
    assert [entry.flatten().tolist() for entry in gradients] == [[1.0, -1.0], [0.5, 0.0]]
    ZeroEngine.clip_gradients(zero, GradientLimit(0.5))
    assert float(torch.cat([entry.flatten() for entry in gradients]).norm()) == pytest.approx(0.5)


def test_other_parameters_are_refused_with_their_names() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"weight: \[2, 3\] in the checkpoint, \[2, 4\] now"):
        copy_tensors(trained(other), gather_tensors(trained(model), keep=True))
    with pytest.raises(ValueError, match="bias: in the checkpoint, not trained now"):
        other.bias.requires_grad_(False)
        copy_tensors(trained(other), gather_tensors(trained(nn.Linear(4, 2)), keep=True))
