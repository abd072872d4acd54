"""Runs that train a flow-matching model: their steps are those of a plain loop over diffusers, and of any launch.

One run is shared by the tests: one process, micro-batches of two clips, two of them in a step, with all random choices
that a sample has.
"""

import importlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline
from forked import fork_run, record_clips, recorded_clips, saved_files, stop_at
from launching import records
from safetensors.torch import load_file
from sharding import shard
from tiny_flow import write_latents, write_tiny_pipeline
from torch import Tensor

from songgen.config import RunConfig
from songgen.data.samples import Sample, TrainingSamples
from songgen.families.flow.family import FLOW
from songgen.families.flow.training.batch import timbre_pieces
from songgen.families.songs import Processes, training_data
from songgen.train.checkpoints.files import AVERAGE_FILE, MODEL_FILE, OPTIMIZER_FILE, verify

STEPS, STOP = 6, 3
REFERENCE_FRAMES = 750
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
    "adam_epsilon": 1e-4, "weight_decay": 0.1, "max_grad_norm": 2.0, "lr_scheduler_type": "constant",
    "logging_steps": 1, "save_steps": 100, "ema_decay": 0.9, "do_eval": True, "eval_strategy": "steps",
    "eval_steps": STOP,
    "predict_with_generate": False, "every_plot_step": None, "ddp_timeout": 60,
    "condition_dropout": 0.3, "caption_dropout": 0.2, "lyrics_dropout": 0.2, "timbre_reference": 0.5,
}  # fmt: skip
RATES = ("time", "train/tokens_per_second", "train/samples_per_second")
SONG_METRICS = {"eval/mel_distance", "eval/latent_distance", "eval/generated_level_db"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline (`model`) and latents (`data`)."""
    folder = tmp_path_factory.mktemp("flow")
    write_latents(folder / "data", write_tiny_pipeline(folder / "model"))
    return folder


def configuration(world: Path, output: Path, **keys: Any) -> dict[str, Any]:
    paths = {"model_name_or_path": str(world / "model"), "save_to_disk": str(world / "data")}
    return {**paths, "feature_cache_dir": str(world / "features"), "output_dir": str(output), **SETTINGS, **keys}


def train(world: Path, output: Path, *, processes: int = 1, hook: Any = None, **keys: Any) -> str:
    path = output.with_suffix(".json")
    path.write_text(json.dumps(configuration(world, output, **keys)))
    return fork_run(path, output.with_suffix(".log"), processes=processes, hook=hook).finish()


@pytest.fixture(scope="module")
def straight(world: Path) -> Path:
    """The folder of the shared run, whose clips are recorded next to it."""
    folder = world / "straight"
    train(world, folder, hook=record_clips(world / "clips"), predict_with_generate=True, num_generated_samples=1,
          num_inference_steps=2)  # fmt: skip
    return folder


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics without those that depend on the machine, and without those of songs."""
    left_out = {*RATES, *SONG_METRICS}
    return [{name: value for name, value in line.items() if name not in left_out} for line in records(folder)]


def require_same_runs(ours: Path, theirs: Path, *, tolerance: float = 2e-5) -> None:
    """Compare all metrics, and the last checkpoint's weights, average and optimizer state."""
    for first, second in zip(metrics_of(ours), metrics_of(theirs), strict=True):
        assert first.keys() == second.keys()
        for name, value in second.items():
            assert first[name] == pytest.approx(value, rel=tolerance), (first["step"], name)
    for file in (MODEL_FILE, AVERAGE_FILE, OPTIMIZER_FILE):
        found, expected = (load_file(folder / f"checkpoint-{STEPS}" / file) for folder in (ours, theirs))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-3, msg=f"{file}: {name}")


def test_it_learns_evaluates_and_samples(straight: Path) -> None:
    lines = records(straight)
    names = set().union(*lines)
    assert {f"{part}/band_{band}/loss" for part in ("train", "eval") for band in (1, 2, 3, 4)} <= names
    first, last = (line for line in lines if "eval/loss" in line)
    bands = [first[f"eval/band_{band}/loss"] for band in (1, 2, 3, 4)]
    assert first["eval/loss"] == pytest.approx(sum(bands) / 4)
    assert last.keys() >= SONG_METRICS and all(math.isfinite(last[name]) for name in SONG_METRICS)
    sounds = {path.name for path in (straight / "samples").rglob("*.wav")}
    assert sounds == {"eval0_generated_mix.wav", "eval0_original_mix.wav"}
    AceStepPipeline.from_pretrained(straight)


class PlainLoop:
    """The same training with nothing but diffusers and torch: one clip at a time, no masks."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        pipeline = AceStepPipeline.from_pretrained(folder)
        self.text_encoder = pipeline.text_encoder
        self.networks = {"transformer": pipeline.transformer, "condition_encoder": pipeline.condition_encoder}
        self.config = config
        named = {f"{part}.{name}": entry for part, it in self.networks.items() for name, entry in it.named_parameters()}
        del named["condition_encoder.timbre_encoder.special_token"]
        self.named = named
        constant = {
            name
            for name, entry in named.items()
            if entry.ndim < 2 or any("norm" in part for part in name.split(".")[:-1])
        }
        training = config.training
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [entry for name, entry in named.items() if name not in constant]},
                {"params": [named[name] for name in named if name in constant], "weight_decay": 0.0},
            ],
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
            weight_decay=training.weight_decay,
        )

    def step(self, samples: list[Sample]) -> dict[str, float]:
        """Make one step, and return its metrics."""
        frames = sum(sample.num_frames for sample in samples)
        loss, bands, shares = torch.zeros(()), [0.0] * 4, [0.0] * 4
        for sample in samples:
            error, quantile = self.error(sample)
            band = int(4 * quantile)
            bands[band] += error.item()
            shares[band] += sample.num_frames
            loss = loss + error / frames
        # Zeros, not None: the null condition takes part in every step, whether or not a clip in it has no conditions.
        for entry in self.named.values():
            entry.grad = torch.zeros_like(entry)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), self.config.training.max_grad_norm)
        self.optimizer.step()
        of_bands = {f"train/band_{band + 1}/loss": bands[band] / shares[band] for band in range(4) if shares[band]}
        return {"train/loss": loss.item(), "train/grad_norm": float(norm)} | of_bands

    def error(self, sample: Sample) -> tuple[Tensor, float]:
        """Return a clip's mean squared error, summed over frames, and the place of its time in the distribution."""
        generator = np.random.Generator(np.random.Philox(key=sample.random_seed))
        quantile, choice = generator.random(2)
        latents = torch.from_numpy(sample.targets["mix"].astype(np.float32)).T[None]
        noise = torch.from_numpy(generator.standard_normal(latents.shape[1:], dtype=np.float32))[None]
        flow = self.config.flow
        normal = torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64))
        time = torch.sigmoid(flow.timestep_mean + flow.timestep_std * normal)
        time = (flow.shift * time / (1 + (flow.shift - 1) * time)).float()
        silence = self.networks["condition_encoder"].silence_latent
        reference = silence[:, :REFERENCE_FRAMES]
        if choice < flow.timbre_reference and not sample.is_unconditional:
            reference = timbre_pieces(latents[0], REFERENCE_FRAMES)[None]
        with torch.no_grad():
            text = self.text_encoder(torch.tensor(sample.caption_ids.tolist())[None]).last_hidden_state
            lyrics = self.text_encoder.get_input_embeddings()(torch.tensor(sample.lyrics_ids.tolist())[None])
        masks = [torch.ones(1, entry.shape[1], dtype=torch.bool) for entry in (text, lyrics)]
        encoder = self.networks["condition_encoder"]
        conditions, _ = encoder(text, masks[0], lyrics, masks[1], reference, torch.tensor([0]))
        if sample.is_unconditional:
            conditions = encoder.null_condition_emb.expand_as(conditions)
        velocity = self.networks["transformer"](
            hidden_states=time * noise + (1 - time) * latents,
            timestep=time[None],
            timestep_r=time[None],
            encoder_hidden_states=conditions,
            context_latents=torch.cat([silence[:, : latents.shape[1]], torch.ones_like(latents)], dim=-1),
        ).sample
        return (velocity - (noise - latents)).square().mean(dim=-1).sum(), quantile


def test_its_steps_are_those_of_a_plain_loop_over_diffusers(world: Path, straight: Path) -> None:
    config = RunConfig.from_dict(configuration(world, straight))
    samples = _samples(config)
    numbers = {samples.dataset.row(index).id: index for index in range(len(samples))}
    plain = PlainLoop(world / "model", config)
    kinds = set()
    trained = [line for line in records(straight) if "train/loss" in line]
    for line, step in zip(trained, recorded_clips(world / "clips"), strict=True):
        chosen = [samples[step["epoch"], numbers[name]] for name in step["clips"]]
        kinds |= {sample.is_unconditional for sample in chosen}
        for name, value in plain.step(chosen).items():
            assert line[name] == pytest.approx(value, rel=1e-6 if name == "train/loss" else 1e-5), (line["step"], name)
    assert kinds == {True, False}
    weights = load_file(straight / f"checkpoint-{STEPS}" / MODEL_FILE)
    assert weights.keys() == plain.named.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, plain.named[name].detach(), rtol=1e-5, atol=1e-6, msg=name)


def _samples(config: RunConfig) -> TrainingSamples:
    core = FLOW.open_model(config, None)
    return training_data(config, FLOW.objective(config, core), lambda songs: None, Processes(0, 1)).samples


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_run_continues_exactly(world: Path, straight: Path, tmp_path: Path, processes: int) -> None:
    """With two processes, loader workers read the clips of one of the two launches."""
    keys = {"gradient_accumulation_steps": 2 // processes}
    whole = straight
    if processes > 1:
        whole = tmp_path / "whole"
        train(world, whole, processes=processes, **keys)
    stopped = tmp_path / "stopped"
    train(world, stopped, processes=processes, hook=stop_at(STOP), **keys)
    assert verify(stopped / f"checkpoint-{STOP}") is not None
    train(world, stopped, processes=processes, dataloader_num_workers=processes - 1, **keys)
    assert saved_files(whole / f"checkpoint-{STEPS}") == saved_files(stopped / f"checkpoint-{STEPS}")
    assert metrics_of(whole) == metrics_of(stopped)
    if processes > 1:
        require_same_runs(whole, straight)


def test_a_larger_batch_with_checkpointing_takes_the_same_steps(world: Path, straight: Path, tmp_path: Path) -> None:
    """Neither the division of a step into micro-batches nor computing activations again changes it."""
    keys = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": True}
    train(world, tmp_path / "run", **keys)
    require_same_runs(tmp_path / "run", straight)


def test_bfloat16_takes_nearly_the_same_steps(world: Path, straight: Path, tmp_path: Path) -> None:
    train(world, tmp_path / "run", dtype="bfloat16")
    for ours, theirs in zip(metrics_of(tmp_path / "run"), metrics_of(straight), strict=True):
        for name in {"train/loss", "eval/loss"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=0.02), (ours["step"], name)


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DeepSpeed would compile reductions in shared memory first, for minutes; gloo has its own."""
    monkeypatch.setattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)
    yield


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["fsdp2_8_gpus.yaml", "fsdp2_zero2_8_gpus.yaml", "deepspeed"])
def test_sharded_runs_take_the_same_steps(
    world: Path, straight: Path, tmp_path: Path, without_compiling: None, kind: str
) -> None:
    def use_deepspeed(rank: int) -> None:
        os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}

    hook = use_deepspeed if kind == "deepspeed" else shard(file=kind)
    train(world, tmp_path / "run", processes=2, hook=hook, gradient_accumulation_steps=1)
    require_same_runs(tmp_path / "run", straight)
