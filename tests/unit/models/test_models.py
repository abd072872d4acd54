"""Properties of the model in every configuration: causality, cache, masks, sums, freezing, warm start."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fakes import CODEBOOKS, VARIANTS, batch, tiny
from torch import nn

from songgen.layout import LAYOUT_NAMES
from songgen.models import SongGenForConditionalGeneration
from songgen.models.loss import codebook_weights
from songgen.runtime.file_hashes import HASHES_FILE


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("track_pattern", LAYOUT_NAMES)
def test_cached_steps_equal_the_full_pass(track_pattern: str, variant: str) -> None:
    model = tiny(track_pattern, variant)
    inputs = batch(model)
    with torch.no_grad():
        full = model(**inputs).logits
        labels = model.layout.labels(inputs["codes"], inputs["frames"], model.vocabulary)
        steps = model.layout.inputs(labels, model.vocabulary)
        keys = ("text_hidden_states", "prompt_input_ids", "prompt_attention_mask", "voice_hidden_states", "voice_mask")
        cache = model.decoder.new_cache(model.encode_conditions(**{key: inputs[key] for key in keys}), steps.shape[-1])
        stepwise = [model.decoder.step(steps[..., s : s + 1], cache) for s in range(steps.shape[-1])]
    assert full is not None
    torch.testing.assert_close(torch.stack(stepwise, dim=2), full, atol=1e-4, rtol=1e-4)


def test_a_step_of_padding_sees_at_least_itself() -> None:
    """Attention to nothing is no number in some kernels; keys of padding are never read, but they must be numbers."""
    model = tiny(variant="prefix")
    inputs = {name: value for name, value in batch(model).items() if name.startswith(("text", "prompt", "voice"))}
    inputs["prompt_attention_mask"] = inputs["prompt_attention_mask"].flip(1)
    with torch.no_grad():
        cache = model.decoder.new_cache(model.encode_conditions(**inputs), 3)
    for length in range(1, 9):
        visible = cache.visible(length)
        assert visible is not None and visible.shape == (2, 1, 1, length) and visible[..., -1].all()
    assert visible[1, 0, 0].tolist() == [False] * 2 + [True] * 6


def test_logits_depend_on_the_past_alone(variant: str) -> None:
    model = tiny("interleaving_A_V", variant)
    inputs = batch(model, (6, 6))
    embedded: list[torch.Tensor] = []

    def remember(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    decoder = model.decoder.model.decoder
    original = decoder.embed
    decoder.embed = lambda ids: remember(decoder, None, original(ids))  # type: ignore[method-assign]
    logits = model(**inputs).logits
    assert logits is not None
    logits[:, :, 5].sum().backward()
    gradient = embedded[0].grad
    assert gradient is not None
    assert (gradient[:, 6:] == 0).all()
    assert (gradient[:, :6].abs().sum(dim=-1) > 0).all()


def test_padding_of_a_batch_changes_nothing(variant: str) -> None:
    """A clip alone and beside a longer one; with a lyrics prefix its padding still counts as positions (published)."""
    model = tiny("mixed_pro", variant)
    inputs = batch(model, (4, 6))
    alone = {key: value[:1] for key, value in inputs.items()}
    alone["codes"], alone["auxiliary_codes"] = alone["codes"][..., :4], alone["auxiliary_codes"][..., :4]
    with torch.no_grad():
        both, one = model(**inputs).logits, model(**alone).logits
    assert both is not None and one is not None
    torch.testing.assert_close(both[:1, :, : one.shape[2]], one, atol=1e-5, rtol=1e-5)


def test_a_masked_voice_does_not_speak() -> None:
    model = tiny()
    inputs = batch(model)
    louder = inputs["voice_hidden_states"].clone()
    louder[1] *= 100
    with torch.no_grad():
        before, after = model(**inputs).logits, model(**{**inputs, "voice_hidden_states": louder}).logits
    assert before is not None and after is not None
    assert torch.equal(before[1], after[1])
    louder[0] *= 100
    with torch.no_grad():
        heard = model(**{**inputs, "voice_hidden_states": louder}).logits
    assert heard is not None and not torch.equal(before[0], heard[0])


@pytest.mark.parametrize("track_pattern", LAYOUT_NAMES)
def test_micro_batch_losses_add_up(track_pattern: str) -> None:
    model = tiny(track_pattern)
    inputs = batch(model, (6, 2, 5))
    weights = codebook_weights(0.0, (0.5, 0.3, 0.2), (1 / 3,) * 3)
    counts = model.layout.target_counts(inputs["frames"])
    with torch.no_grad():
        whole = model(**inputs, codebook_weights=weights)
        parts = [
            model(
                **{key: value[b : b + 1] for key, value in inputs.items()},
                codebook_weights=weights,
                target_counts=counts,
            )
            for b in range(3)
        ]
    assert torch.equal(whole.target_counts, counts)
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    torch.testing.assert_close(sum(part.codebook_losses for part in parts), whole.codebook_losses)
    if whole.vocal_loss is not None:
        torch.testing.assert_close(sum(part.vocal_loss for part in parts), whole.vocal_loss)


def test_clip_without_frames_adds_nothing() -> None:
    model = tiny().train()
    output = model(**batch(model, (0, 0)))
    output.loss.backward()
    assert output.loss == 0 and output.target_counts.sum() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_learns_without_voices() -> None:
    model = tiny().train()
    inputs = {key: value for key, value in batch(model).items() if not key.startswith("voice")}
    output = model(**inputs)
    (output.loss + output.vocal_loss).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("track_pattern", LAYOUT_NAMES)
def test_fused_loss_equals_the_plain_one(track_pattern: str) -> None:
    model = tiny(track_pattern).train()
    weights, results = codebook_weights(0.3, (0.5, 0.3, 0.2), (1 / 3,) * 3), []
    counts = model.layout.target_counts(torch.tensor([6, 4])) + 5
    for return_logits in (True, False):
        model.zero_grad()
        output = model(**batch(model), codebook_weights=weights, target_counts=counts, return_logits=return_logits)
        assert (output.logits is not None) == return_logits
        (output.loss + (0 if output.vocal_loss is None else 0.1 * output.vocal_loss)).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.loss.detach(), output.codebook_losses.detach(), gradients))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = tiny().train()
    inputs, gradients = batch(model), []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("track_pattern", [name for name in LAYOUT_NAMES if name != "mixed_pro"])
def test_warm_start_maps_heads_and_embeddings(track_pattern: str, tmp_path: Path) -> None:
    source = tiny("mixed_pro")
    source.save_pretrained(tmp_path)
    model = SongGenForConditionalGeneration.from_pretrained(tmp_path, track_pattern=track_pattern)
    assert model.config.track_pattern == track_pattern and not model.config.add_vocal_loss
    for track in range(len(model.layout.tracks)):
        for codebook in range(CODEBOOKS):
            head = model.layout.heads[track][codebook]
            assert torch.equal(model.decoder.lm_heads[head].weight, source.decoder.lm_heads[codebook].weight)
    assert torch.equal(model.embed_prompts.weight, source.embed_prompts.weight)


def test_saved_model_opens_the_same(tmp_path: Path, variant: str) -> None:
    model = tiny("mixed_pro", variant)
    model.save_pretrained(tmp_path)
    again = SongGenForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(**batch(again)).logits, model(**batch(model)).logits)


def test_misfit_weights_are_all_named(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    replace(model.config, lyrics_vocab_size=31, text_hidden_size=9).save(tmp_path)
    (tmp_path / HASHES_FILE).unlink()
    with pytest.raises(ValueError, match=r"(?s)embed_prompts.*enc_to_dec_proj"):
        SongGenForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("progress", "blend"), [(0.0, 0.0), (0.29, 0.0), (0.3, 0.3), (0.6, 0.6), (0.8, 0.8), (1.0, 0.8)]
)
def test_codebook_weights_follow_the_published_blend(progress: float, blend: float) -> None:
    start, end = (0.25,) * 3 + (0.05,) * 5, (1 / 8,) * 8
    expected = (1 - blend) * torch.tensor(start) + blend * torch.tensor(end)
    torch.testing.assert_close(codebook_weights(progress, start, end), expected)


def test_input_masking_hides_beginnings_and_tokens_in_training_alone() -> None:
    model = tiny()
    inputs = torch.zeros(400, model.layout.num_heads, 20, dtype=torch.long)
    assert torch.equal(model.train()._hide(inputs), inputs)
    model.set_input_masking(0.25)
    assert torch.equal(model.eval()._hide(inputs), inputs)
    torch.manual_seed(0)
    hidden = model.train()._hide(inputs) == model.vocabulary.mask_token_id
    assert not hidden[..., 0].any()
    # A quarter of the clips loses all heads of its first step, half of them single tokens; about 3 in 8 lose nothing.
    assert 0.2 < hidden[..., 1].all(dim=1).float().mean() < 0.4
    assert 0.3 < (~hidden).flatten(1).all(dim=1).float().mean() < 0.5
    whole_steps = (hidden == hidden[:, :1]).flatten(1).all(dim=1) & hidden.flatten(1).any(dim=1)
    runs = hidden[whole_steps, 0, 1:].int()
    assert len(runs) and (runs[:, :-1] >= runs[:, 1:]).all()


@pytest.mark.parametrize("move", [lambda model: model.to("meta"), lambda model: model.to_empty(device="meta")])
def test_frozen_networks_move_along(move: Callable[[nn.Module], nn.Module]) -> None:
    model, part = tiny(), nn.Linear(2, 2)
    model.attach("text_encoder", part)
    move(model)
    assert model.attached()["text_encoder"].weight.device == model.device == torch.device("meta")
