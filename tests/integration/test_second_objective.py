"""A second kind of model, with a loss of its own on latents of its own, goes through the trainer as it is.

A tiny flow-matching model: it learns the velocity that takes noise to the latents of a continuous autoencoder, frame by
frame. Nothing of it is in the package; the trainer is given its family, and a data set in the schema of latents.

Shapes: B batch, C channels, T frames.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import fork_run, saved_files, stop_at
from launching import make_world
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from songgen.config import DataArguments, RunConfig
from songgen.data.dataset import SongDataset
from songgen.data.samples import Sample
from songgen.data.schema import DATASET_FILE, LATENTS, DatasetInfo, ShardInfo, arrow_schema
from songgen.data.writer import ShardWriter
from songgen.doctor import examine
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.families import registry
from songgen.families.family import Family, ModelFiles
from songgen.families.model_facts import ModelFacts
from songgen.families.objective import BatchLoss, Counts, DataNeeds, Objective, SongRequest
from songgen.families.registry import family_of
from songgen.families.songs import open_songs
from songgen.families.trainable import ParameterGroups, Trainable
from songgen.runtime.processes.commands import Interrupted
from songgen.tasks import Task
from songgen.train.checkpoints.files import verify
from songgen.train.publishing.hub import select_files

CHANNELS, WIDTH, RATE = 4, 16, 1000
STEPS, STOP = 6, 3
NUM_TRAIN, NUM_HELD_OUT = 7, 3
MODEL_TYPE, WEIGHTS_FILE, METRICS_FILE = "tiny_flow", "model.safetensors", "metrics.jsonl"
CODEC = "autoencoder-1"
GROUPS = ParameterGroups({"first_bias": ("layers.0.bias",), "others": ("layers.0.weight", "layers.3.")})


@dataclass(frozen=True)
class LatentBatch:
    """Clips of latents, padded with zeros."""

    ids: list[str]
    """Names of the clips."""
    latents: Tensor
    """B x C x T."""
    frames: Tensor
    """B int64."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "LatentBatch":
        return replace(self, latents=self.latents.to(device), frames=self.frames.to(device))


@dataclass
class FlowOutput:
    """What the model returns: dataclasses of tensors go through every wrapper."""

    velocity: Tensor
    """B x C x T."""


class FlowModel(nn.Module):
    """Velocity of noisy latents at a time between noise (0) and data (1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels + 1, WIDTH, 1), nn.GELU(), nn.Dropout(0.1), nn.Conv1d(WIDTH, channels, 1)
        )

    def forward(self, noisy: Tensor, time: Tensor) -> FlowOutput:
        marked = torch.cat([noisy, time[:, None, None].expand(-1, 1, noisy.shape[-1])], dim=1)
        return FlowOutput(self.layers(marked))


@dataclass(frozen=True)
class FlowObjective(Objective):
    """Mean squared error of the velocity, of which late steps of the run count double."""

    channels: int
    """C."""

    @property
    def data_needs(self) -> DataNeeds:
        return DataNeeds(LATENTS, ("mix",))

    def collate(self, samples: Sequence[Sample]) -> LatentBatch:
        frames = [sample.num_frames for sample in samples]
        latents = torch.zeros(len(samples), self.channels, max(1, *frames))
        for row, sample in zip(latents, samples, strict=True):
            row[:, : sample.num_frames] = torch.from_numpy(sample.targets["mix"].astype(np.float32))
        return LatentBatch([sample.id for sample in samples if sample.num_frames], latents, torch.tensor(frames))

    def count(self, batches: Sequence[LatentBatch]) -> Counts:
        frames = torch.cat([batch.frames for batch in batches])
        total = int(frames.sum())
        return Counts(torch.tensor([total]), int((frames > 0).sum()), total, total * self.channels)

    def curve_values(self, progress: float) -> Tensor:
        return torch.tensor([2.0 if progress >= 0.5 else 1.0])

    def errors(self, model: nn.Module, batch: LatentBatch, noise: Tensor, time: Tensor) -> Tensor:
        """Sum of squared errors by channel (C): the one loss of training and evaluation."""
        mixed = torch.lerp(noise, batch.latents, time[:, None, None])
        error = (model(mixed, time).velocity - (batch.latents - noise)).square()
        inside = torch.arange(error.shape[-1], device=error.device) < batch.frames[:, None]
        return (error * inside[:, None]).sum(dim=(0, 2))

    def loss(self, model: nn.Module, batch: LatentBatch, divisors: Tensor, curve_values: Tensor) -> BatchLoss:
        noise, time = torch.randn_like(batch.latents), torch.rand(len(batch.latents), device=batch.latents.device)
        shares = self.errors(model, batch, noise, time) / divisors.clamp(min=1)
        return BatchLoss(curve_values[0] * shares.mean(), {"channels": shares.detach()})

    def training_metrics(self, parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {f"channel_{number}/error": value for number, value in enumerate(parts["channels"])}

    def evaluation_sums(self, model: nn.Module, batch: LatentBatch) -> Tensor:
        halfway = torch.full((len(batch.latents),), 0.5, device=batch.latents.device)
        errors = self.errors(model, batch, torch.zeros_like(batch.latents), halfway)
        return torch.cat([errors, batch.frames.sum()[None]]).double()

    def evaluation_metrics(self, sums: Tensor) -> dict[str, float]:
        return {"loss": float((sums[:-1] / sums[-1]).mean()), "frames": float(sums[-1])}

    @torch.no_grad()
    def sample_songs(self, core: FlowModel, request: SongRequest) -> dict[str, float]:
        with request.whole_weights():
            for index in range(request.num_songs if request.rank == 0 else 0):
                sample = request.samples[0, index]
                generator = torch.Generator().manual_seed(index)
                latents = torch.randn(1, self.channels, sample.num_frames, generator=generator)
                for time in (0.0, 0.5):
                    latents += 0.5 * core(latents, torch.tensor([time])).velocity
                request.sink.audio(f"{sample.id}/generated_mix", _sound(latents[0].numpy()), RATE, request.step)
                if request.with_originals:
                    request.sink.audio(f"{sample.id}/original_mix", _sound(sample.targets["mix"]), RATE, 0)
        if request.inbox.stop_requested_anywhere():
            raise Interrupted
        return {"num_songs": float(request.num_songs)} if request.rank == 0 else {}


def _sound(latents: np.ndarray) -> np.ndarray:
    """What an autoencoder would decode."""
    return np.tanh(np.repeat(latents.mean(axis=0), 100)).astype(np.float32)


def open_model(config: RunConfig, task: Task | None) -> FlowModel:
    folder = Path(config.model.model_name_or_path)
    model = FlowModel(json.loads((folder / registry.MODEL_CONFIG_FILE).read_text())["channels"])
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model


def check_data(config: RunConfig, core: FlowModel, songs: SongDataset, needs: DataNeeds) -> None:
    if songs.info.num_channels != CHANNELS or songs.info.codec_fingerprint != CODEC:
        raise ValueError(f"{songs.name}: latents of another autoencoder")


def write_model(core: FlowModel, weights: Mapping[str, Tensor], config: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    record = {"model_type": MODEL_TYPE, "channels": CHANNELS}
    (folder / registry.MODEL_CONFIG_FILE).write_text(json.dumps(record))
    save_file(dict(weights), folder / WEIGHTS_FILE)


FLOW = Family(
    name="tiny flow",
    target_kind=LATENTS,
    open_model=open_model,
    objective=lambda config, core: FlowObjective(CHANNELS),
    check_data=check_data,
    prepare_model=lambda config, core, data: None,
    choose_trained=lambda config, core: Trainable.choose(core, GROUPS, frozen=["first_bias"]),
    frozen_content=lambda core, trained: {
        name: str(p.sum().item()) for name, p in trained.frozen_parameters(core).items()
    },
    start=lambda config, core, data, processes: None,
    describe=lambda config, core: "a tiny flow",
    write_model=write_model,
    model_files=ModelFiles(weights=lambda folder: [WEIGHTS_FILE]),
    model_facts=lambda folder: ModelFacts(("flow",), "A tiny flow.", "parameters", (), ()),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, MODEL_TYPE, f"{__name__}:FLOW")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model (`flow`) with its latents, and a token model (`model`) with its codes (`data`)."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    torch.manual_seed(0)
    model = FlowModel(CHANNELS)
    write_model(model, model.state_dict(), None, folder / "flow")
    write_latents(folder / "latents")
    return folder


def write_latents(folder: Path) -> None:
    """Write latents with the package's writer, in its schema: slow waves, so that there is something to learn."""
    generator = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", NUM_TRAIN), ("eval", NUM_HELD_OUT)):
        (folder / split).mkdir(parents=True)
        path = folder / split / "data-00000.arrow"
        with ShardWriter(path, arrow_schema(("mix",), LATENTS)) as writer:
            for number in range(count):
                frames = int(generator.integers(3, 9))
                waves = np.sin(np.arange(frames) / 3 + np.arange(CHANNELS)[:, None]) + generator.normal(0, 0.1)
                writer.add(number, {
                    "id": f"{split}{number}", "caption": "a wave", "lyrics": "", "language": "en",
                    "caption_ids": [2, 1], "lyrics_ids": [261, 0], "duration": frames / 10, "num_frames": frames,
                    "latents_mix": waves.astype(np.float16).reshape(-1), "energy_mix": None, "voice_samples": [],
                    "caption_variant_ids": [], "caption_variant_lengths": [],
                })  # fmt: skip
            splits[split] = (ShardInfo(f"{split}/{path.name}", count, writer.finish()),)
    info = DatasetInfo(
        {}, CODEC, RATE, 100, 0, 0, "", "", 0, ("mix",), splits, target_kind=LATENTS, num_channels=CHANNELS
    )
    (folder / DATASET_FILE).write_text(info.to_json())


def configuration(world: Path, output: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "model_name_or_path": str(world / "flow"), "save_to_disk": str(world / "latents"), "output_dir": str(output),
        "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
        "logging_steps": 1, "do_eval": True, "eval_strategy": "steps", "eval_steps": STOP, "ema_decay": 0.9,
        "predict_with_generate": True, "num_generated_samples": 2, "save_steps": 100, "ddp_timeout": 60,
        "every_plot_step": None,
    }  # fmt: skip
    path = output.with_suffix(".json")
    path.write_text(json.dumps(values | changes))
    return path


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return [{name: value for name, value in line.items() if "second" not in name and name != "time"} for line in lines]


@pytest.mark.parametrize("processes", [1, 2])
def test_it_trains_evaluates_samples_saves_and_resumes_exactly(world: Path, tmp_path: Path, processes: int) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fork_run(configuration(world, straight), tmp_path / "log", processes=processes).finish(EXIT_DONE)
    config = configuration(world, stopped)
    fork_run(config, tmp_path / "log", processes=processes, hook=stop_at(STOP)).finish(EXIT_DONE)
    fork_run(config, tmp_path / "log", processes=processes).finish(EXIT_DONE)
    checkpoint = f"checkpoint-{STEPS}"
    assert saved_files(straight / checkpoint) == saved_files(stopped / checkpoint)
    assert verify(stopped / f"checkpoint-{STOP}") is not None
    assert records(straight) == records(stopped)
    first, last = (line["eval/loss"] for line in records(straight) if "eval/loss" in line)
    assert last < first, "it learns"
    names = set().union(*records(straight))
    assert {"train/loss", "train/channel_0/error", "eval/frames", "eval/num_songs"} <= names
    steps = {path.parent.name for path in (stopped / "samples").rglob("*.wav")}
    assert steps == {"step_00000000", f"step_{STOP:08d}", f"step_{STEPS:08d}"}


def test_what_is_summed_does_not_depend_on_the_micro_batches(world: Path) -> None:
    data = DataArguments(save_to_disk=str(world / "latents"))
    objective, model = FlowObjective(CHANNELS), FlowModel(CHANNELS).eval()
    songs = open_songs(data, "train", objective.data_needs, None)
    assert songs.row(0).targets["mix"].dtype == np.float16 and songs.row(0).targets["mix"].shape[0] == CHANNELS
    samples = [
        Sample(row.id, row.num_frames, row.targets, row.caption_ids, row.lyrics_ids, row.voice_samples)
        for row in map(songs.row, range(len(songs)))
    ]
    whole = objective.evaluation_sums(model, objective.collate(samples))
    parts = [objective.evaluation_sums(model, objective.collate([sample])) for sample in samples]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-5)


def test_the_folder_says_which_family_it_is(world: Path) -> None:
    assert family_of(world / "flow").target_kind == LATENTS
    assert family_of(world / "model").name == "SongGen tokens"
    names = {file.name for file in select_files(world / "flow")[0]}
    assert names == {"config.json", WEIGHTS_FILE, "README.md"}
    found = {finding.where: finding.what for finding in examine(world / "latents", deep=True).findings}
    assert found["latents"] == f"{CHANNELS} values a frame"


@pytest.mark.parametrize(("model", "data"), [("flow", "data"), ("model", "latents")])
def test_data_of_the_other_kind_is_refused(world: Path, tmp_path: Path, model: str, data: str) -> None:
    paths = {"model_name_or_path": str(world / model), "save_to_disk": str(world / data)}
    printed = fork_run(configuration(world, tmp_path / "run", **paths), tmp_path / "log").finish(EXIT_ERROR)
    assert "give a data set of that kind, or another model" in printed
