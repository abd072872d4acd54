"""Which layers of a model an entry of `target_modules` names."""

from typing import Any

import pytest
from model_fakes import tiny
from torch import nn

from songgen.adapters.options import AdapterOptions
from songgen.adapters.targets import Targets, find_targets
from songgen.families.tokens.parameter_groups import TOKEN_LAYERS

WORDS = TOKEN_LAYERS.words
LAYER = "decoder.model.decoder.layers."


def find(*targets: str, model: nn.Module | None = None, frozen: str = "nothing", **options: Any) -> Targets:
    return find_targets(
        tiny() if model is None else model,
        AdapterOptions(targets=targets, rank=4, alpha=8, **options),
        WORDS,
        lambda name: name.startswith(frozen),
    )


def projections(part: str, index: int) -> set[str]:
    return {f"{LAYER}{index}.{part}.{name}_proj" for name in ("q", "k", "v", "out")}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("attention", projections("self_attn", 0) | projections("self_attn", 1)),
        ("cross_attention", projections("encoder_attn", 0) | projections("encoder_attn", 1)),
        ("feed_forward", {f"{LAYER}{index}.fc{number}" for index in (0, 1) for number in (1, 2)}),
        ("projections", {"enc_to_dec_proj", "audio_mert_to_dec_proj", "lyrics_to_dec_proj"}),
        ("heads", {f"decoder.{kind}.{head}" for kind in ("lm_heads", "vocal_lm_heads") for head in range(3)}),
    ],
)
def test_a_word_names_a_part(word: str, expected: set[str]) -> None:
    assert set(find(word).adapted) == expected


def test_every_linear_layer_is_in_one_word_and_all_linear_leaves_out_the_heads() -> None:
    linear = {name for name, module in tiny().named_modules() if isinstance(module, nn.Linear)}
    found = [name for word in WORDS.patterns if word != "all-linear" for name in find(word).adapted]
    assert sorted(found) == sorted(linear)
    assert set(find("all-linear").adapted) == linear - set(find("heads").adapted)


def test_names_parts_and_expressions() -> None:
    assert set(find("fc1").adapted) == {f"{LAYER}0.fc1", f"{LAYER}1.fc1"}
    assert find("layers.1.fc1").adapted == (f"{LAYER}1.fc1",)
    assert set(find("layers.0", "fc1").adapted) == {
        name for name in find("all-linear").adapted if name.startswith(f"{LAYER}0.") or name.endswith(".fc1")
    }
    assert set(find("self_attn").adapted) == {*find("attention").adapted, *find("linear_[qkv]|.*self_attn.*").adapted}
    assert set(find(r".*\.1\.(self|encoder)_attn\.[qv]_proj").adapted) == {
        f"{LAYER}1.{part}.{name}_proj" for part in ("self_attn", "encoder_attn") for name in "qv"
    }
    assert find("embed_prompts").adapted == ("embed_prompts",), "an embedding is named itself, never by a part"
    assert not [name for name in find("decoder").adapted if "embed" in name]


def test_layers_are_in_the_order_of_the_model() -> None:
    names = [name for name, _ in tiny().named_modules()]
    found = find("fc2", "attention", "fc1").adapted
    assert list(found) == sorted(found, key=names.index)


def test_a_target_that_matches_nothing_names_what_exists() -> None:
    with pytest.raises(ValueError) as caught:
        find("to_q", "linear_q", "q_proy", "atention", "[", "speaker_embedder")
    text = str(caught.value)
    for expected in (
        "target_modules: 'to_q' matches no layer of this model; its purpose here has q_proj",
        "'q_proy' matches no layer of this model; did you mean q_proj?",
        "'atention' matches no layer of this model; did you mean attention?",
        "'[' is neither a name nor a regular expression",
        "'speaker_embedder' matches no layer of this model; its purpose here has audio_mert_to_dec_proj",
        "Words for parts of this model: attention, cross_attention,",
        "fc1, fc2,",
    ):
        assert expected in text
    assert "'linear_q'" not in text, "the lyrics encoder has it"


def test_layers_of_frozen_groups_get_no_adapter() -> None:
    assert not [name for name in find("all-linear", frozen="lyrics_encoder").adapted if "lyrics_encoder" in name]
    with pytest.raises(ValueError, match="'lyrics_encoder' matches only layers that are frozen"):
        find("attention", "lyrics_encoder", frozen="lyrics_encoder")


def test_whole_layers_are_not_adapted_too() -> None:
    found = find("all-linear", modules_to_save=("projections", "heads", "embed_prompts"))
    assert set(found.saved) == {*find("projections").adapted, *find("heads").adapted, "embed_prompts"}
    assert not set(found.saved) & set(found.adapted)
    with pytest.raises(ValueError, match="no adapter is left"):
        find("heads", modules_to_save=("heads",))


def test_patterns_name_adapted_layers() -> None:
    found = find("attention", "fc1", rank_pattern={"attention": 8, "layers.0": 2}, alpha_pattern={"fc1": 3})
    assert {found.ranks[name] for name in find("layers.0").adapted if name in found.ranks} == {2}
    assert found.ranks[f"{LAYER}1.self_attn.q_proj"] == 8 and f"{LAYER}1.fc1" not in found.ranks
    assert found.alphas == {f"{LAYER}{index}.fc1": 3 for index in (0, 1)}
    with pytest.raises(ValueError, match="rank_pattern: 'fc2' matches no layer that gets an adapter"):
        find("attention", rank_pattern={"fc2": 2})
