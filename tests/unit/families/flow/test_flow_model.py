"""The flow model computes what diffusers' pipeline computes, and a clip in a batch what it computes alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.transformers.ace_step_transformer import AceStepAttnProcessor2_0
from safetensors.torch import load_file, save_file
from tiny_flow import CHANNELS, TEXT_WIDTH, write_tiny_pipeline

from songgen.families.flow.model import FlowModel
from songgen.families.flow.model_folder import MODEL_FILES
from songgen.families.flow.padding import MaskedProcessor
from songgen.families.flow.pipeline import PIPELINE_FILE, open_component
from songgen.runtime.file_hashes import record_hashes

FRAMES = torch.tensor([7, 12, 4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("flow") / "model")


def inputs() -> dict[str, torch.Tensor]:
    """Three clips of different lengths, padded with values that must not matter."""
    generator = torch.Generator().manual_seed(1)
    captions, lyrics = torch.tensor([3, 5, 2]), torch.tensor([9, 2, 6])
    return {
        "noisy": torch.randn(3, 12, CHANNELS, generator=generator),
        "timesteps": torch.tensor([0.2, 0.9, 0.5]),
        "frames": FRAMES,
        "captions": torch.randn(3, 5, TEXT_WIDTH, generator=generator),
        "caption_mask": torch.arange(5) < captions[:, None],
        "lyrics": torch.randn(3, 9, TEXT_WIDTH, generator=generator),
        "lyrics_mask": torch.arange(9) < lyrics[:, None],
        "references": torch.randn(2, 20, CHANNELS, generator=generator),
        "reference_of": torch.tensor([1, 0, 1]),
    }


def alone(batch: dict[str, torch.Tensor], clip: int) -> dict[str, torch.Tensor]:
    """One clip of a batch, without padding."""
    lengths = {"noisy": batch["frames"][clip]} | {
        name: batch[mask][clip].sum()
        for name, mask in (
            ("captions", "caption_mask"),
            ("caption_mask", "caption_mask"),
            ("lyrics", "lyrics_mask"),
            ("lyrics_mask", "lyrics_mask"),
        )
    }
    one = {name: value[clip : clip + 1] for name, value in batch.items() if name != "references"}
    one |= {"references": batch["references"][one["reference_of"]], "reference_of": torch.tensor([0])}
    return one | {name: one[name][:, :length] for name, length in lengths.items()}


@torch.no_grad()
def test_a_clip_in_a_batch_is_computed_as_if_it_were_alone(folder: Path) -> None:
    model, batch = FlowModel.open(folder), inputs()
    together = model(**batch).velocity
    for clip, frames in enumerate(FRAMES.tolist()):
        torch.testing.assert_close(together[clip, :frames], model(**alone(batch, clip)).velocity[0])


@torch.no_grad()
def test_a_clip_is_computed_as_diffusers_does(folder: Path) -> None:
    """Odd numbers of frames included, for which the transformer fills up the last patch."""
    model, pipeline = FlowModel.open(folder), AceStepPipeline.from_pretrained(folder)
    for clip in range(len(FRAMES)):
        one = alone(inputs(), clip)
        conditions, _ = pipeline.condition_encoder(
            one["captions"],
            one["caption_mask"],
            one["lyrics"],
            one["lyrics_mask"],
            one["references"],
            one["reference_of"],
        )
        silence = pipeline.condition_encoder.silence_latent[:, : one["noisy"].shape[1]]
        expected = pipeline.transformer(
            hidden_states=one["noisy"],
            timestep=one["timesteps"],
            timestep_r=one["timesteps"],
            encoder_hidden_states=conditions,
            context_latents=torch.cat([silence, torch.ones_like(silence)], dim=-1),
        ).sample
        torch.testing.assert_close(model(**one).velocity, expected)


@torch.no_grad()
def test_without_conditions_texts_do_not_matter(folder: Path) -> None:
    model, batch = FlowModel.open(folder), inputs()
    dropped = torch.tensor([True, False, True])
    first = model(**batch, is_unconditional=dropped).velocity
    changed = batch | {"captions": batch["captions"] + 1, "references": batch["references"] - 1}
    second = model(**changed, is_unconditional=dropped).velocity
    assert torch.equal(first[0, :7], second[0, :7]) and torch.equal(first[2, :4], second[2, :4])
    assert not torch.allclose(first[1], second[1])


def test_gradients_with_checkpointing_are_those_without(folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = FlowModel.open(folder).train()
        if checkpointing:
            model.transformer.enable_gradient_checkpointing()
        model(**inputs()).velocity.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys() and len(plain) > 40
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_the_order_of_the_gradients_does_not_depend_on_padding(folder: Path) -> None:
    """DeepSpeed adds up gradients in the order in which they come, and one process may have padding, another none."""
    batch, orders = inputs(), []
    for given in (batch, alone(batch, 1)):
        model, order = FlowModel.open(folder), []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name, order=order: order.append(name))
        model(**given).velocity.sum().backward()
        orders.append(order)
    assert orders[0] == orders[1] and len(orders[0]) > 40


@torch.no_grad()
def test_the_pipeline_generates_after_a_batch_with_padding(folder: Path) -> None:
    model = FlowModel.open(folder)
    expected = _song(AceStepPipeline.from_pretrained(folder))
    model(**inputs())
    torch.testing.assert_close(_song(model.pipeline()), expected)


def _song(pipeline: AceStepPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline(prompt="a song", lyrics="la", audio_duration=1.0, num_inference_steps=2, generator=generator).audios


def test_frozen_parts_are_not_modules_of_the_model(folder: Path) -> None:
    model = FlowModel.open(folder)
    names = [name for name, _ in model.named_parameters()]
    text_encoder = model.part("text_encoder")
    assert model.part("text_encoder") is text_encoder
    assert not any(parameter.requires_grad for parameter in text_encoder.parameters())
    assert [name for name, _ in model.named_parameters()] == names
    model.unload("text_encoder")
    assert model.part("text_encoder") is not text_encoder


def _rewrite_index(folder: Path, **changes: object) -> None:
    path = folder / PIPELINE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_pipeline_or_class_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_pipeline(tmp_path / "model")
    _rewrite_index(folder, vae=["evil", "Network"], _class_name="AceStepPipeline", scheduler=[None, None])
    with pytest.raises(ValueError, match=r"vae is a 'Network'.*scheduler is missing"):
        FlowModel.open(folder)
    _rewrite_index(folder, _class_name="StableAudioPipeline")
    with pytest.raises(ValueError, match="'StableAudioPipeline'; this program trains AceStepPipeline"):
        FlowModel.open(folder)


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_pipeline(tmp_path / "model")
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"missing weights: {name}"):
        FlowModel.open(folder)
    save_file(weights | {name: weights[name] * float("nan")}, path)
    with pytest.raises(ValueError, match="NaN or infinity"):
        FlowModel.open(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot be opened: .*[^. ]\. Restore it from a copy, or download it again"):
        FlowModel.open(folder)


@pytest.mark.parametrize("name", ["transformer/config.json", "vae/config.json", "tokenizer/tokenizer.json"])
def test_a_file_that_was_changed_since_it_was_written_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_tiny_pipeline(tmp_path / "model")
    record_hashes(folder, MODEL_FILES.names(folder))
    (folder / name).write_text((folder / name).read_text() + " ")
    with pytest.raises(ValueError, match=f"not as it was written:\n- .*{name}"):
        open_component(folder, name.partition("/")[0])


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"num_hidden_layers": 10**9}, "sizes that no network has"),
        ("text_encoder", {"hidden_size": 10**9}, "sizes that no network has"),
        ("text_encoder", {"quantization_config": {"quant_method": "gptq"}}, "states quantized weights"),
    ],
)
def test_a_configuration_is_checked_before_anything_is_allocated(
    tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    folder = write_tiny_pipeline(tmp_path / "model")
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        open_component(folder, part)


def test_code_in_a_pipeline_is_neither_run_nor_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_pipeline(tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer_config.json"
    code = {"auto_map": {"AutoTokenizer": ["evil.Tokens", None]}, "tokenizer_class": "EvilTokens"}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    (folder / "tokenizer" / "evil.py").write_text("raise SystemExit('code was run')")
    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    with pytest.raises(ValueError, match="cannot be opened"):
        open_component(folder, "tokenizer")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_attn_implementation": "someone/kernels"}))
    assert open_component(folder, "text_encoder").config._attn_implementation == "sdpa"


def test_masked_attention_is_that_of_diffusers_without_shared_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values; on CUDA, the fused kernels take a mask or heads that share keys, but not both."""
    # In diffusers, a mask of a window would not reach this one.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName.FLASH)
    attend, plain = torch.nn.functional.scaled_dot_product_attention, FlowModel.open(folder)
    calls = []

    def counted(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append((keywords["attn_mask"] is not None, keywords.get("enable_gqa", False)))
        return attend(*arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    found = FlowModel.open(folder)(**inputs()).velocity
    assert (True, False) in calls and (True, True) not in calls
    monkeypatch.setattr(MaskedProcessor, "__call__", _as_diffusers_attends)
    expected = plain(**inputs()).velocity
    assert (True, True) in calls
    assert torch.equal(found, expected)


def _as_diffusers_attends(
    self: MaskedProcessor,
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    image_rotary_emb: Any = None,
) -> torch.Tensor:
    """Attend with the masks of a batch by diffusers' own code."""
    inside = self.masks.patches if encoder_hidden_states is None else self.masks.conditions
    mask = inside if attention_mask is None else attention_mask
    if attention_mask is not None and inside is not None:
        mask = torch.where(inside, attention_mask, torch.finfo(attention_mask.dtype).min)
    return AceStepAttnProcessor2_0.__call__(self, attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)


def test_every_row_of_a_mask_sees_something(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding far from its clip, too: in CUDA's kernels, a row without keys may be NaN, which reaches all others."""
    model, attend = FlowModel.open(folder), torch.nn.functional.scaled_dot_product_attention
    lengths, texts = torch.tensor([60, 4]), torch.tensor([40, 1])
    batch = {
        "noisy": torch.randn(2, 60, CHANNELS),
        "timesteps": torch.tensor([0.2, 0.9]),
        "frames": lengths,
        "captions": torch.randn(2, 5, TEXT_WIDTH),
        "caption_mask": torch.ones(2, 5, dtype=torch.bool),
        "lyrics": torch.randn(2, 40, TEXT_WIDTH),
        "lyrics_mask": torch.arange(40) < texts[:, None],
        "references": torch.randn(1, 20, CHANNELS),
        "reference_of": torch.zeros(2, dtype=torch.long),
    }
    rows = []

    def looked_at(*arguments: Any, **keywords: Any) -> torch.Tensor:
        mask = keywords["attn_mask"]
        if mask is not None:
            sees = mask if mask.dtype == torch.bool else mask == 0
            rows.append(sees.any(dim=-1).all())
        return attend(*arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", looked_at)
    together = model(**batch).velocity
    assert len(rows) > 4 and all(rows)
    torch.testing.assert_close(together[1, :4], model(**alone(batch, 1)).velocity[0])
