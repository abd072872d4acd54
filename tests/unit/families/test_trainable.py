"""What is trained is decided in one place: groups, freezing, decay, learning-rate factors."""

import pytest
import torch
from model_fakes import batch, tiny
from torch import nn

from songgen.config import RunConfig
from songgen.families.tokens.parameter_groups import TOKEN_GROUPS, choose_trained
from songgen.families.trainable import ParameterGroups, Trainable
from songgen.layout import LAYOUT_NAMES


def test_groups_partition_the_parameters() -> None:
    for pattern in LAYOUT_NAMES:
        groups = {TOKEN_GROUPS.group_of(name) for name, _ in tiny(pattern).named_parameters()}
        assert groups == set(TOKEN_GROUPS.prefixes) - (set() if pattern == "mixed_pro" else {"vocal_heads"})
    with pytest.raises(ValueError, match="no group"):
        TOKEN_GROUPS.group_of("decoder.unknown.weight")


def test_freezing_freezes_what_it_says_and_no_more() -> None:
    model = tiny()
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=["cross"])
    cross = TOKEN_GROUPS.aliases["cross"]
    assert trainable.frozen_groups == cross
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (TOKEN_GROUPS.group_of(name) not in cross)
    assert list(trainable.parameters(model)) == [n for n, p in model.named_parameters() if p.requires_grad]
    assert list(trainable.frozen_parameters(model)) == [n for n, p in model.named_parameters() if not p.requires_grad]
    with pytest.raises(ValueError, match="known groups: cross, text_projection"):
        Trainable.choose(model, TOKEN_GROUPS, frozen=["crosses"])


def test_what_somebody_froze_before_stays_frozen() -> None:
    """As the base weights under an adapter: freezing other groups must not train them."""
    model = tiny()
    model.decoder.lm_heads[0].requires_grad_(False)
    Trainable.choose(model, TOKEN_GROUPS, frozen=["cross"])
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=["lyrics_embedding"])
    names = [entry.name for entry in trainable.entries]
    assert "decoder.lm_heads.0.weight" not in names and "decoder.lm_heads.1.weight" in names
    assert not {entry.group for entry in trainable.entries} & set(TOKEN_GROUPS.aliases["cross"])
    assert "heads" not in trainable.frozen_groups, "one of them is frozen, not the group"


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    entries = {entry.name: entry.decays for entry in Trainable.choose(tiny(), TOKEN_GROUPS).entries}
    decay = [name for name, decays in entries.items() if decays]
    assert not [name for name in decay if "norm" in name or name.endswith("bias") or "embed_tokens" in name]
    assert not [name for name in decay if "pos_bias_u" in name or name == "embed_prompts.weight"]
    assert "enc_to_dec_proj.weight" in decay and "decoder.lm_heads.0.weight" in decay


def test_the_optimizers_groups_hold_every_trained_parameter_once_and_no_frozen_one() -> None:
    model = tiny()
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=["cross"], learning_rate_factors={"heads": 0.1})
    groups = trainable.optimizer_groups(model, 0.5)
    held = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) == len(trainable.entries)
    kinds = [(group["weight_decay"], group["learning_rate_factor"]) for group in groups]
    assert kinds == [(0.5, 1.0), (0.0, 1.0), (0.5, 0.1)]


def test_a_groups_own_factor_goes_before_that_of_an_alias() -> None:
    factors = {"lyrics_embedding": 3.0, "cross": 0.5}
    entries = Trainable.choose(tiny(), TOKEN_GROUPS, learning_rate_factors=factors).entries
    found = {entry.group: entry.learning_rate_factor for entry in entries}
    assert (found["lyrics_embedding"], found["lyrics_encoder"], found["heads"]) == (3.0, 0.5, 1.0)


def test_a_factor_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not trained: heads"):
        Trainable.choose(tiny(), TOKEN_GROUPS, frozen=["heads"], learning_rate_factors={"heads": 0.1})
    with pytest.raises(ValueError, match="known groups"):
        Trainable.choose(tiny(), TOKEN_GROUPS, learning_rate_factors={"nothing": 0.1})


def test_names_are_those_of_the_bare_model_however_it_is_wrapped() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = ParameterGroups({"first": ("0.",), "second": ("1.",)})
    trainable = Trainable.choose(model, groups, frozen=["second"])
    wrapped = nn.ModuleDict({"module": torch.compile(model, backend="eager")})
    assert list(trainable.parameters(wrapped)) == ["0.weight", "0.bias"] == list(trainable.parameters(model))
    assert list(trainable.frozen_parameters(wrapped)) == ["1.weight", "1.bias"]
    assert list(trainable.exported(wrapped)) == list(model.state_dict())


def test_frozen_parameters_do_not_move() -> None:
    model = tiny().train()
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=["decoder"])
    model(**batch(model), return_logits=False).loss.backward()
    frozen = [parameter for name, parameter in model.named_parameters() if name not in trainable.parameters(model)]
    assert frozen and all(parameter.grad is None for parameter in frozen)


def test_prepended_lyrics_train_their_encoder_where_they_are_encoded() -> None:
    config = RunConfig.from_dict(
        {"model_name_or_path": "model", "output_dir": "run", "save_to_disk": "data", "add_vocal_loss": True}
    )
    assert not choose_trained(config, tiny(variant="prefix")).frozen_groups
    bare = choose_trained(config, tiny(variant="bare_prefix"))
    assert bare.frozen_groups == ("lyrics_encoder", "lyrics_projection")
