"""The flow model computes what diffusers' pipeline computes, and a clip in a batch what it computes alone."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file, save_file
from tiny_flow import CHANNELS, TEXT_WIDTH, write_tiny_pipeline

from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import PIPELINE_FILE

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
        "reference": torch.randn(3, 20, CHANNELS, generator=generator),
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
    one = {name: value[clip : clip + 1] for name, value in batch.items()}
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
            one["captions"], one["caption_mask"], one["lyrics"], one["lyrics_mask"], one["reference"], torch.tensor([0])
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
    changed = batch | {"captions": batch["captions"] + 1, "reference": batch["reference"] - 1}
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
