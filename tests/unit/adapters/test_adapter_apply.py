"""Adapters on a base model: the same numbers as in training, strengths, several at once, and merged."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from adapters_fakes import TARGETS, VARIANTS, make_adapter, outputs
from model_fakes import tiny

from songgen.adapters.apply import AdapterUse, adapter_layers, attach_adapters
from songgen.adapters.folder import Adapter
from songgen.adapters.merge import merge_adapters


def use(adapter: Adapter, strength: float = 1.0) -> AdapterUse:
    return AdapterUse(adapter, "folder", strength)


def changed(adapter: Adapter, **config: Any) -> Adapter:
    """The adapter with other values in its configuration."""
    values = adapter.config.to_dict()
    return replace(adapter, config=type(adapter.config)(**{**values, **config}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_what_was_trained(variant: str) -> None:
    trained, adapter = make_adapter(**VARIANTS[variant])
    model = tiny()
    attach_adapters(model, [use(adapter)])
    assert torch.allclose(outputs(model), outputs(trained), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(outputs(model), outputs(tiny()), rtol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_strength_zero_is_the_base_bit_for_bit(variant: str) -> None:
    _, adapter = make_adapter(**VARIANTS[variant])
    model = tiny()
    attach_adapters(model, [use(adapter, 0.0)])
    assert torch.equal(outputs(model), outputs(tiny()))
    assert not adapter_layers(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_strength_is_near_the_base(variant: str) -> None:
    """Everything that an adapter changes is weakened: matrices, magnitudes and modules that it holds whole."""
    _, adapter = make_adapter(**VARIANTS[variant])
    model = tiny()
    attach_adapters(model, [use(adapter, 1e-5)])
    difference = (outputs(model) - outputs(tiny())).abs().max()
    assert 0 < difference < 1e-2


def test_half_and_half_is_the_whole() -> None:
    _, adapter = make_adapter(**VARIANTS["whole_modules"])
    once, twice = tiny(), tiny()
    attach_adapters(once, [use(adapter)])
    attach_adapters(twice, [use(adapter, 0.5), use(adapter, 0.5)])
    assert torch.allclose(outputs(once), outputs(twice), rtol=1e-4, atol=1e-5)


def test_several_add_up_in_the_weights() -> None:
    _, first = make_adapter(1)
    _, second = make_adapter(2, target_modules=["k_proj", "q_proj"])
    model, expected = tiny(), tiny()
    attach_adapters(model, [use(first, 0.7), use(second, -0.3)])
    state = expected.state_dict()
    for adapter, strength in ((first, 0.7), (second, -0.3)):
        for name in adapter.weights:
            if ".lora_A" in name:
                low, high = adapter.weights[name], adapter.weights[name.replace("lora_A", "lora_B")]
                target = name.removeprefix("base_model.model.").split(".lora_A")[0]
                state[f"{target}.weight"] += strength * 2 * high @ low
    assert torch.allclose(outputs(model), outputs(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_it_computes_the_same_up_to_rounding(variant: str) -> None:
    trained, adapter = make_adapter(**VARIANTS[variant])
    model = tiny()
    attach_adapters(model, [use(adapter)])
    difference = merge_adapters(model)
    assert not adapter_layers(model)
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert torch.allclose(outputs(model), outputs(trained), rtol=1e-4, atol=1e-5)
    assert difference.layers > 0 and difference.relative < 1e-5
    model.decoder.lm_heads[0].weight.data.zero_()  # the layers are plain ones, whose weights are used
    assert (outputs(model)[:, 0] == 0).all()


def test_the_difference_of_merging_counts_the_rounding() -> None:
    _, adapter = make_adapter()
    model = tiny()
    attach_adapters(model, [use(adapter)])
    precisions = dict.fromkeys(tiny().state_dict(), torch.bfloat16)
    difference = merge_adapters(model, precisions)
    assert 1e-4 < difference.relative < 1e-2
    layer = model.get_submodule("decoder.model.decoder.layers.0.fc1")
    assert torch.equal(layer.weight, layer.weight.bfloat16().float())


@pytest.mark.parametrize(("kind", "low", "high"), [("nf4", 0.02, 0.3), ("int8", 0.001, 0.05)])
def test_a_quantized_base_is_merged_whole_and_the_rounding_measured(kind: str, low: float, high: float) -> None:
    _, adapter = make_adapter()
    model, plain = tiny(), tiny()
    attach_adapters(model, [use(adapter)])
    attach_adapters(plain, [use(adapter)])
    difference = merge_adapters(model, quantization=kind)
    merge_adapters(plain)
    assert difference.quantized is not None and low < difference.quantized < high
    assert difference.relative < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_another_base_is_refused_or_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, adapter = make_adapter()
    with pytest.raises(ValueError, match="trained on another base model: on base .*--any_base"):
        attach_adapters(tiny(seed=1), [use(adapter)])
    with caplog.at_level(logging.WARNING):
        attach_adapters(model := tiny(seed=1), [use(adapter)], any_base=True)
    assert "another base model" in caplog.text
    assert adapter_layers(model)


def test_an_adapter_without_a_recipe_is_used() -> None:
    _, adapter = make_adapter()
    attach_adapters(model := tiny(seed=1), [use(replace(adapter, recipe=None))])
    assert len(adapter_layers(model)) > len(TARGETS)


def foreign(adapter: Adapter) -> Adapter:
    """The adapter of a model whose modules have other names."""
    weights = {name.replace("q_proj", "to_q"): tensor for name, tensor in adapter.weights.items()}
    return replace(changed(adapter, target_modules=["to_q"]), weights=weights)


def one_less(adapter: Adapter, part: str = "lora_") -> Adapter:
    """The adapter without the weights of one module."""
    name = next(name for name in adapter.weights if part in name)
    module = name.rsplit(".lora_", 1)[0]
    return replace(adapter, weights={key: t for key, t in adapter.weights.items() if not key.startswith(module)})


def without(adapter: Adapter, ending: str) -> Adapter:
    """The adapter without one kind of weights."""
    return replace(adapter, weights={key: t for key, t in adapter.weights.items() if not key.endswith(ending)})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: changed(foreign(a), target_modules=["to_q"]), "does not have: base|does not have: decoder"),
        (one_less, "targets modules that it has no weights for"),
        (lambda a: changed(a, target_modules=["q_proj", "fc1"]), "does not target"),
        (lambda a: changed(a, r=8), "weights and its configuration do not agree"),
        (lambda a: without(a, "lora_B.weight"), "weights and its configuration do not agree"),
        (lambda a: changed(a, modules_to_save=["enc_to_dec_proj"]), "lacks these weights of them: enc_to_dec_proj"),
        (
            lambda a: replace(a, weights={**a.weights, "base_model.model.enc_to_dec_proj.bias": torch.zeros(16)}),
            "not in this shape: enc_to_dec_proj.bias",
        ),
        (lambda a: replace(a, weights={}), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(damage: Any, reason: str) -> None:
    _, adapter = make_adapter()
    with pytest.raises(ValueError, match="folder does not fit the model") as error:
        attach_adapters(tiny(), [use(damage(adapter))])
    assert any(each in str(error.value) for each in reason.split("|")), str(error.value)


def test_what_exists_is_named() -> None:
    _, adapter = make_adapter()
    with pytest.raises(ValueError, match="are called, for example, .*q_proj"):
        attach_adapters(tiny(), [use(foreign(adapter))])
