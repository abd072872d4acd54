"""A new adapter on a model: what it changes, and what stays as it is."""

from typing import Any

import pytest
import torch
from model_fakes import VARIANTS, batch, tiny
from peft import LoraConfig, get_peft_model
from torch import nn

from songgen.adapters.attach import attach
from songgen.adapters.folder import peft_names
from songgen.adapters.options import AdapterOptions
from songgen.adapters.targets import find_targets
from songgen.families.tokens.parameter_groups import TOKEN_LAYERS
from songgen.models import SongGenForConditionalGeneration
from songgen.models.loss import head_losses
from songgen.tasks import DUAL_TRACK, MIXED

LAYOUTS = [*MIXED.layouts, *DUAL_TRACK.layouts]


def adapted(model: SongGenForConditionalGeneration, *targets: str, seed: int = 0, **options: Any) -> LoraConfig:
    chosen = AdapterOptions(targets=targets, rank=4, alpha=8, **options)
    return attach(model, chosen, find_targets(model, chosen, TOKEN_LAYERS.words, lambda name: False), seed=seed)


def randomize(model: nn.Module) -> None:
    """Give the second matrices values, so that the adapter does something."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_a_new_adapter_computes_what_the_base_does(use_dora: bool) -> None:
    model = tiny()
    before, base = model(**batch(model)), {name: value.clone() for name, value in model.state_dict().items()}
    forward = model.forward
    adapted(model, "all-linear", "heads", "embed_prompts", use_dora=use_dora)
    assert type(model) is SongGenForConditionalGeneration and model.forward == forward
    torch.testing.assert_close(model(**batch(model)).logits, before.logits, rtol=1e-5, atol=1e-5)
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in base.items())


def test_only_the_adapter_is_trained() -> None:
    model = tiny()
    adapted(model, "attention", modules_to_save=("projections",))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert set(trained) == set(peft_names(name for name, _ in model.named_parameters()))
    assert {part for name in trained for part in ("lora_A", "lora_B", "modules_to_save") if part in name} == {
        "lora_A", "lora_B", "modules_to_save",
    }  # fmt: skip


def test_first_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        model = tiny()
        adapted(model, "fc1", seed=seed)
        return model.state_dict()["decoder.model.decoder.layers.0.fc1.lora_A.default.weight"]

    assert torch.equal(first(1, noise=5), first(1, noise=6)) and not torch.equal(first(1, noise=5), first(2, noise=5))
    state = torch.get_rng_state()
    adapted(tiny(), "fc1")
    model = tiny()
    torch.set_rng_state(state)
    adapted(model, "fc1")
    assert torch.equal(torch.get_rng_state(), state), "the random numbers of the run are left alone"


def test_peft_by_hand_makes_the_same_adapter() -> None:
    ours, model = tiny(), tiny()
    adapted(ours, "attention", "fc1", rank_pattern={"attention": 2}, use_rslora=True, seed=7)
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=r".*\.self_attn\.(q|k|v|out)_proj|.*\.fc1",
        rank_pattern={r".*\.self_attn\.(q|k|v|out)_proj": 2},
    )  # fmt: skip
    torch.manual_seed(7)
    theirs = get_peft_model(model, config)
    expected = {name.removeprefix("base_model.model."): value for name, value in theirs.state_dict().items()}
    found = ours.state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_adapted_on_all_layers(layout: str) -> None:
    model = tiny(layout)
    before = model(**batch(model)).loss
    adapted(model, "all-linear", "heads")
    randomize(model)
    after = model(**batch(model))
    assert after.loss.isfinite() and not torch.allclose(after.loss, before)
    after.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model_is_adapted_on_all_layers(variant: str) -> None:
    model = tiny(variant=variant)
    adapted(model, "all-linear")
    randomize(model)
    assert model(**batch(model)).loss.isfinite()


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_heads_with_adapters_are_not_fused(train: bool) -> None:
    """The loss is that of logits which each head computes by itself."""
    model = tiny().train(train)
    adapted(model, "decoder.lm_heads.1", "vocal_lm_heads")
    randomize(model)
    inputs, captured = batch(model), []
    model.decoder.model.decoder.layer_norm.register_forward_hook(lambda module, given, states: captured.append(states))
    output = model(**inputs, return_logits=False)
    tokens = model.layout.labels(inputs["codes"], inputs["frames"], model.vocabulary)
    mask = model.layout.target_mask(inputs["frames"], tokens.shape[-1], train_every_eos=True)
    states = captured[0]
    weights = [
        head.weight if type(head) is nn.Linear
        else head.base_layer.weight + 2 * head.lora_B["default"].weight @ head.lora_A["default"].weight
        for head in model.decoder.lm_heads
    ]  # fmt: skip
    logits = torch.stack([states @ weight.T for weight in weights], dim=1)
    expected = head_losses(logits, torch.where(mask, tokens, -100))
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.codebook_losses, expected.per_head, rtol=1e-5, atol=1e-6)
    output.loss.backward()
    assert model.decoder.lm_heads[1].lora_B["default"].weight.grad is not None
