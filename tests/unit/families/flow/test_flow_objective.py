"""The objective of flow matching: timesteps, what a sample becomes in a batch, losses, and features of texts."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline
from tiny_flow import CHANNELS, write_latents, write_tiny_pipeline
from torch import Tensor, nn

from songgen.config import RunConfig
from songgen.data.samples import EMPTY_SLOT, Sample, TrainingSamples
from songgen.families.flow.costs import flow_costs
from songgen.families.flow.family import FLOW, open_model
from songgen.families.flow.model import FlowModel
from songgen.families.flow.training.batch import FlowBatch, FlowCollator, timbre_pieces
from songgen.families.flow.training.objective import ERRORS, FRAMES, FlowObjective
from songgen.families.flow.training.text_features import PromptEncoder
from songgen.families.flow.training.timesteps import BANDS, Timesteps, turbo_times
from songgen.families.songs import Processes, evaluation_data, training_data

NO_CURVE = torch.zeros(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline (`model`) and latents (`data`)."""
    folder = tmp_path_factory.mktemp("flow")
    write_latents(folder / "data", write_tiny_pipeline(folder / "model"))
    return folder


def configured(folder: Path, **keys: Any) -> RunConfig:
    paths = {"model_name_or_path": str(folder / "model"), "save_to_disk": str(folder / "data")}
    return RunConfig.from_dict({**paths, "output_dir": str(folder / "run"), **keys})


@pytest.fixture(scope="module")
def core(folder: Path) -> FlowModel:
    return open_model(configured(folder), None).eval()


def objective_of(folder: Path, core: FlowModel, **keys: Any) -> FlowObjective:
    objective = FLOW.objective(configured(folder, **keys), core)
    assert isinstance(objective, FlowObjective)
    return objective


def samples_of(folder: Path, objective: FlowObjective, *, split: str = "train", **keys: Any) -> TrainingSamples:
    make = training_data if split == "train" else evaluation_data
    return make(configured(folder, **keys), objective, lambda songs: None, Processes(0, 1)).samples


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
def test_discrete_times_are_the_steps_of_the_pipeline(shift: float) -> None:
    schedule = AceStepPipeline._get_timestep_schedule(None, 8, shift, dtype=torch.float32)  # type: ignore[arg-type]
    assert torch.equal(turbo_times(shift).flip(0), schedule)
    places = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    times, counts = Timesteps("discrete", shift).at(places).unique(return_counts=True)
    assert torch.equal(times, schedule.flip(0)) and set(counts.tolist()) == {100}


def test_times_have_their_distribution() -> None:
    places = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    normal = torch.logit(Timesteps("logit_normal", 1.0, -0.4, 1.5).at(places).double())
    assert float(normal.mean()) == pytest.approx(-0.4, abs=1e-3) and float(normal.std()) == pytest.approx(1.5, rel=1e-2)
    assert torch.allclose(Timesteps("uniform", 1.0).at(places), places.float())
    times = Timesteps("uniform", 3.0).at(places)
    assert torch.allclose(times.double(), 3 * places / (1 + 2 * places)), "the shift of the schedule"
    for sampling in ("logit_normal", "uniform", "discrete"):
        ends = Timesteps(sampling, 3.0).at(torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64))  # type: ignore[arg-type]
        assert ends.isfinite().all() and 0 <= ends[0] < ends[1] <= 1


@pytest.mark.parametrize("sampling", ["logit_normal", "uniform", "discrete"])
def test_strata_cover_all_bands_alike(sampling: Any) -> None:
    timesteps = Timesteps(sampling, 3.0)
    places = torch.tensor([0.0, 0.3, 0.9999], dtype=torch.float64)
    strata = timesteps.strata(places)
    assert strata.shape == (3, 8 if sampling == "discrete" else 4)
    assert (strata.diff(dim=1) > 0).all()
    limits = torch.tensor(timesteps.band_limits())
    for stratum in range(strata.shape[1]):
        band = stratum * BANDS // strata.shape[1]
        assert ((limits[band] <= strata[:, stratum]) & (strata[:, stratum] <= limits[band + 1])).all()
    if sampling == "discrete":
        assert torch.equal(strata[0], turbo_times(3.0)), "a clip is evaluated at every step"


def fields_of(batch: FlowBatch, row: int) -> dict[str, Any]:
    """What a batch holds of a clip, without padding."""
    frames = int(batch.frames[row])
    return {
        "latents": batch.latents[row, :frames],
        "noise": batch.noise[row, :frames],
        "timesteps": batch.timesteps[row],
        "bands": batch.bands[row],
        "strata": batch.strata[row],
        "caption_ids": batch.caption_ids[row][batch.caption_mask[row]],
        "lyrics_ids": batch.lyrics_ids[row][batch.lyrics_mask[row]],
        "reference": batch.references[batch.reference_of[row]],
    }


def test_what_a_sample_becomes_does_not_depend_on_its_neighbours(folder: Path, core: FlowModel) -> None:
    objective = objective_of(folder, core, timbre_reference=0.5)
    samples = [samples_of(folder, objective)[0, index] for index in range(7)]
    whole = objective.collate(samples)
    for row, sample in enumerate(samples):
        alone = fields_of(objective.collate([sample]), 0)
        assert all(torch.equal(value, alone[name]) for name, value in fields_of(whole, row).items())
    after = torch.arange(whole.latents.shape[1]) >= whole.frames[:, None]
    assert after.any() and not whole.latents[after].any() and not whole.noise[after].any()
    assert torch.equal(whole.references[0], objective.collator.silence)
    assert 0 < int((whole.reference_of > 0).sum()) == len(whole.references) - 1 < len(samples)


def test_another_epoch_or_seed_gives_other_noise_and_times_and_evaluation_the_same(
    folder: Path, core: FlowModel
) -> None:
    objective = objective_of(folder, core)
    first, later = (objective.collate([samples_of(folder, objective)[epoch, 2]]) for epoch in (0, 1))
    other = objective.collate([samples_of(folder, objective, seed=5)[0, 2]])
    for batch in (later, other):
        assert not torch.equal(batch.noise, first.noise) and batch.timesteps != first.timesteps
    held_out = samples_of(folder, objective, split="eval", do_eval=True)
    again = [objective.collate([held_out[epoch, 1]]) for epoch in (0, 7)]
    assert torch.equal(again[0].noise, again[1].noise) and torch.equal(again[0].strata, again[1].strata)


def test_noise_is_normal_in_all_places(folder: Path) -> None:
    sample = Sample("long", 4000, {"mix": np.zeros((CHANNELS, 4000), np.float16)}, *[np.zeros(1, np.int32)] * 2,
                    np.zeros(0, np.int16), random_seed=2**62 + 1)  # fmt: skip
    noise = FlowCollator(Timesteps("uniform", 1.0), torch.zeros(750, CHANNELS), 0.0)([sample]).noise
    assert noise.mean(dim=(0, 1)).abs().max() < 0.06 and (noise.std(dim=(0, 1)) - 1).abs().max() < 0.04


@pytest.mark.parametrize("frames", [1, 5, 700, 750, 1000, 1501])
def test_timbre_pieces_are_those_of_the_pipeline(frames: int) -> None:
    """The pipeline cuts audio; here one sample of audio is one frame, and the autoencoder changes nothing."""
    encode = lambda audio: SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda: audio))  # noqa: E731
    pipeline: Any = SimpleNamespace(sample_rate=25, vae=SimpleNamespace(dtype=torch.float32, encode=encode))
    latents = torch.randn(frames, CHANNELS)
    expected, _ = AceStepPipeline.prepare_reference_audio_latents(
        pipeline, latents.T, 1, torch.device("cpu"), torch.float32
    )
    assert torch.equal(timbre_pieces(latents, 750), expected[0])


def velocity_error(core: FlowModel, objective: FlowObjective, sample: Sample, time: Tensor, noise: Tensor) -> Tensor:
    """The sum over frames of a clip's mean squared error, with nothing but diffusers."""
    pipeline = core.pipeline()
    latents = torch.from_numpy(sample.targets["mix"].astype(np.float32)).T[None]
    text = pipeline.text_encoder(torch.tensor(sample.caption_ids.tolist())[None]).last_hidden_state
    lyrics = pipeline.text_encoder.get_input_embeddings()(torch.tensor(sample.lyrics_ids.tolist())[None])
    silence = pipeline.condition_encoder.silence_latent
    masks = [torch.ones(1, entry.shape[1], dtype=torch.bool) for entry in (text, lyrics)]
    conditions, _ = pipeline.condition_encoder(text, masks[0], lyrics, masks[1], silence[:, :750], torch.tensor([0]))
    if sample.is_unconditional:
        conditions = pipeline.condition_encoder.null_condition_emb.expand_as(conditions)
    velocity = pipeline.transformer(
        hidden_states=time * noise + (1 - time) * latents,
        timestep=time[None],
        timestep_r=time[None],
        encoder_hidden_states=conditions,
        context_latents=torch.cat([silence[:, : latents.shape[1]], torch.ones_like(latents)], dim=-1),
    ).sample
    return (velocity - (noise - latents)).square().mean(dim=-1).sum()


def test_losses_of_batches_are_those_of_single_clips_over_diffusers(folder: Path, core: FlowModel) -> None:
    """Whatever the division into micro-batches: of five clips in 3 + 2, with an empty micro-batch."""
    objective = objective_of(folder, core, condition_dropout=0.4)
    source = samples_of(folder, objective, condition_dropout=0.4)
    samples = [source[3, index] for index in range(5)]
    assert {sample.is_unconditional for sample in samples} == {True, False}
    batches = [objective.collate(part) for part in (samples[:3], samples[3:], [source[0, EMPTY_SLOT]])]
    counts = objective.count(batches)
    assert counts.songs == 5 and counts.targets == counts.frames * CHANNELS
    found = [objective.loss(core, batch, counts.divisors, NO_CURVE) for batch in batches]
    assert not batches[2].ids and found[2].total.item() == 0
    whole = objective.collate(samples)
    total = sum(
        velocity_error(core, objective, sample, whole.timesteps[row], whole.noise[row : row + 1, : sample.num_frames])
        for row, sample in enumerate(samples)
    )
    torch.testing.assert_close(sum(loss.total for loss in found), total / counts.frames, rtol=1e-6, atol=0)
    together = objective.loss(core, whole, counts.divisors, NO_CURVE)
    for name in (ERRORS, FRAMES):
        torch.testing.assert_close(sum(loss.parts[name] for loss in found), together.parts[name], rtol=1e-6, atol=1e-7)
    assert float(together.parts[ERRORS].sum()) == pytest.approx(float(together.total), rel=1e-6)
    assert float(together.parts[FRAMES].sum()) == pytest.approx(1)


def test_padding_gives_no_gradient(folder: Path, core: FlowModel) -> None:
    objective = objective_of(folder, core)
    source = samples_of(folder, objective)
    samples = [source[0, index] for index in range(4)]
    whole = objective.collate(samples)
    divisors = objective.count([whole]).divisors
    gradients = []
    for parts in ([samples], [[sample] for sample in samples]):
        for part in parts:
            objective.loss(core, objective.collate(part), divisors, NO_CURVE).total.backward()
        gradients.append({name: entry.grad for name, entry in core.named_parameters() if entry.grad is not None})
        core.zero_grad()
    together, alone = gradients
    assert together.keys() == alone.keys()
    scale = max(float(entry.abs().max()) for entry in alone.values())
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6 * scale, msg=name)


def test_a_band_without_clips_in_a_step_does_not_count_as_zero(folder: Path, core: FlowModel) -> None:
    objective = objective_of(folder, core)
    source = samples_of(folder, objective)
    steps = [objective.collate([source[0, index], source[0, index + 1]]) for index in (0, 2)]
    bands = [set(step.bands.tolist()) for step in steps]
    assert bands[0] != bands[1]
    losses = [objective.loss(core, step, objective.count([step]).divisors, NO_CURVE) for step in steps]
    means = {name: torch.stack([loss.parts[name] for loss in losses]).mean(dim=0).tolist() for name in (ERRORS, FRAMES)}
    metrics = objective.training_metrics(means)
    assert set(metrics) == {f"band_{band + 1}/loss" for band in bands[0] | bands[1]}
    for band in bands[0] - bands[1]:
        errors, frames = (losses[0].parts[name][band] for name in (ERRORS, FRAMES))
        assert metrics[f"band_{band + 1}/loss"] == pytest.approx(float(errors / frames), rel=1e-6)
    shares = sum(metrics[f"band_{band + 1}/loss"] * means[FRAMES][band] for band in range(BANDS) if means[FRAMES][band])
    assert shares == pytest.approx(float(sum(loss.total for loss in losses)) / 2, rel=1e-6), "they add up to the loss"


@torch.no_grad()
@pytest.mark.parametrize("sampling", ["logit_normal", "discrete"])
def test_evaluation_measures_every_clip_in_every_stratum(folder: Path, core: FlowModel, sampling: str) -> None:
    objective = objective_of(folder, core, timestep_sampling=sampling)
    source = samples_of(folder, objective, split="eval", do_eval=True)
    samples = [source[0, index] for index in range(2)]
    whole = objective.collate(samples)
    sums = objective.evaluation_sums(core, whole)
    parts = [objective.evaluation_sums(core, objective.collate([sample])) for sample in samples]
    torch.testing.assert_close(sum(parts), sums, rtol=1e-6, atol=1e-6)
    metrics = objective.evaluation_metrics(sums)
    strata = whole.strata.shape[1]
    expected = torch.zeros(BANDS, dtype=torch.float64)
    for row, sample in enumerate(samples):
        for stratum, time in enumerate(whole.strata[row]):
            noise = whole.noise[row : row + 1, : sample.num_frames]
            expected[stratum * BANDS // strata] += velocity_error(core, objective, sample, time, noise)
    frames = int(whole.frames.sum())
    assert metrics["loss"] == pytest.approx(float(expected.sum()) / frames / strata, rel=1e-6)
    for band in range(BANDS):
        value = float(expected[band]) / frames / (strata // BANDS)
        assert metrics[f"band_{band + 1}/loss"] == pytest.approx(value, rel=1e-6)


@torch.no_grad()
def test_features_of_texts_are_those_of_the_pipeline(folder: Path) -> None:
    core = FlowModel.open(folder / "model")
    pipeline = core.pipeline()
    captions, lyrics = ["a song", "another, longer one"], ["la", "la la la"]
    expected = pipeline.encode_prompt(captions, lyrics, torch.device("cpu"), audio_duration=30.0)
    texts = [pipeline._format_prompt(*pair, audio_duration=30.0) for pair in zip(captions, lyrics, strict=True)]
    for place, look_up in ((0, core.texts.captions), (1, core.texts.lyrics)):
        entries = pipeline.tokenizer([text[place] for text in texts], padding=True, return_tensors="pt")
        mask = entries.attention_mask.bool()
        found = look_up(entries.input_ids, mask, torch.device("cpu"))
        assert torch.equal(mask, expected[2 * place + 1])
        torch.testing.assert_close(found[mask], expected[2 * place][mask], rtol=1e-5, atol=1e-6)


def test_the_text_encoder_is_freed_and_opened_again_for_unknown_texts(folder: Path, tmp_path: Path) -> None:
    core = FlowModel.open(folder / "model")
    objective = objective_of(folder, core)
    data = samples_of(folder, objective)
    batch = objective.collate([data[0, 1], data[0, 4]])
    cpu = torch.device("cpu")

    def look_up() -> list[Tensor]:
        return [
            core.texts.captions(batch.caption_ids, batch.caption_mask, cpu),
            core.texts.lyrics(batch.lyrics_ids, batch.lyrics_mask, cpu),
        ]

    before = look_up()
    core.texts.prepare([data], Processes(0, 1), tmp_path / "features", cpu)
    assert not core.texts.encoder.is_loaded and list((tmp_path / "features").rglob("*.safetensors"))
    after = look_up()
    assert not core.texts.encoder.is_loaded
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    unknown = replace(batch, caption_ids=(batch.caption_ids - 1).clamp(0), lyrics_ids=(batch.lyrics_ids - 1).clamp(0))
    assert core.texts.lyrics(unknown.lyrics_ids, unknown.lyrics_mask, cpu).shape == after[1].shape
    assert core.texts.encoder.is_loaded


def test_a_second_process_reads_features_that_another_has_stored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objective_of(folder, FlowModel.open(folder / "model"))
    data, cpu = samples_of(folder, objective), torch.device("cpu")
    objective.texts.prepare([data], Processes(0, 1), tmp_path, cpu)
    monkeypatch.setattr(PromptEncoder, "_states", lambda *arguments: pytest.fail("computed again"))
    other = objective_of(folder, FlowModel.open(folder / "model"))
    other.texts.prepare([data], Processes(0, 1), tmp_path, cpu)
    batch = objective.collate([data[0, 0]])
    assert torch.equal(
        *(each.texts.captions(batch.caption_ids, batch.caption_mask, cpu) for each in (objective, other))
    )


def test_an_objective_goes_to_loader_workers_without_features(folder: Path, core: FlowModel) -> None:
    objective = objective_of(folder, core)
    copy = pickle.loads(pickle.dumps(objective))  # noqa: S301 - our own object
    sample = samples_of(folder, objective)[0, 0]
    assert torch.equal(copy.collate([sample]).noise, objective.collate([sample]).noise)
    assert "encoder" not in vars(copy.texts)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"top_k": 50}, "top_k: without meaning for a flow-matching model"),
        ({"voice_choices": {"vocal": 1}}, "voice_choices: without meaning for a flow-matching model"),
        ({"attn_implementation": "eager"}, "attn_implementation: without meaning for a flow-matching model"),
        ({"timestep_std": 2.0}, "timestep_std: without effect on timesteps that are discrete"),
        ({"condition_dropout": 0.1}, "condition_dropout: .* is a turbo model"),
        ({"guidance_scale": 3.0}, "guidance_scale: .* is a turbo model"),
    ],
)
def test_keys_without_meaning_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    write_tiny_pipeline(tmp_path / "model", is_turbo=True)
    with pytest.raises(ValueError, match=message):
        open_model(configured(tmp_path, **keys), None)
    with pytest.raises(ValueError, match=message):  # `songgen check` says it before anything is opened
        flow_costs(configured(tmp_path, **keys))


def test_a_turbo_model_is_trained_at_its_eight_steps(tmp_path: Path, folder: Path, core: FlowModel) -> None:
    write_tiny_pipeline(tmp_path / "model", is_turbo=True)
    turbo = objective_of(tmp_path, open_model(configured(tmp_path), None))
    assert turbo.collator.timesteps == Timesteps("discrete", 3.0, -1.5, 1.0)
    assert objective_of(folder, core).collator.timesteps.sampling == "logit_normal"
    with pytest.raises(ValueError, match="timestep_sampling: .* is not a turbo model"):
        open_model(configured(folder, timestep_sampling="discrete"), None)


def test_latents_of_another_autoencoder_are_refused(folder: Path, tmp_path: Path) -> None:
    write_latents(tmp_path / "data", write_tiny_pipeline(tmp_path / "other", seed=1))
    config = configured(folder, save_to_disk=str(tmp_path / "data"))
    core = open_model(config, None)
    objective = FLOW.objective(config, core)
    with pytest.raises(ValueError, match=r"codec_fingerprint(.|\n)*tokenize the songs with this model"):
        training_data(
            config, objective, lambda songs: FLOW.check_data(config, core, songs, objective.data_needs), Processes(0, 1)
        )


def test_hashes_cover_frozen_weights_and_the_text_encoder(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, freeze=["lyrics_encoder"])

    def content(change: Sequence[str] = ()) -> dict[str, str]:
        core = open_model(config, None)
        for name, entry in [*core.named_parameters(), *core.named_buffers()]:
            if name in change:
                entry.data.add_(1)
        return dict(FLOW.frozen_content(core, FLOW.choose_trained(config, core)))

    known = content()
    assert known == content() and "text_encoder_sha256" in known
    assert known == content(["transformer.layers.0.self_attn.to_q.weight"]), "trained"
    for name in ("condition_encoder.lyric_encoder.embed_tokens.weight", "condition_encoder.silence_latent"):
        assert known != content([name]), name


@pytest.mark.faults
def test_compiled_layers_compute_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are traced, with masks of padding; without the code that would be generated, which takes a minute."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_module(self, backend="eager", **options))
    torch._dynamo.utils.counters.clear()
    losses, gradients = [], []
    for keys in ({}, {"torch_compile": True, "gradient_checkpointing": True}):
        config = configured(folder, **keys)
        core = open_model(config, None).train()
        objective = objective_of(folder, core, **keys)
        FLOW.prepare_model(config, core, None)  # type: ignore[arg-type]  # it reads no data
        source = samples_of(folder, objective)
        for index in (0, 3):  # of other lengths
            batch = objective.collate([source[0, index], source[0, index + 1]])
            total = objective.loss(core, batch, objective.count([batch]).divisors, NO_CURVE).total
            total.backward()
            losses.append(total.item())
        gradients.append({name: entry.grad for name, entry in core.named_parameters() if entry.grad is not None})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(core.blocks()) / 2
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-5)
    plain, compiled = gradients
    scale = max(float(entry.abs().max()) for entry in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)
