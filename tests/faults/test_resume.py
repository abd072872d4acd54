"""A run that goes on is the run that was begun: bit for bit, or refused with the way out."""

import dataclasses
import itertools
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_fakes
from accelerate.state import AcceleratorState
from forked import before_each_step, fork_run, record_clips, recorded_clips, saved_files, signal_at, stop_at
from launching import make_world, records, write_config
from run_forms import KEYS, in_both_forms
from safetensors.torch import load_file, save_file
from training_fakes import tiny_config, write_dataset, write_model_folder

from songgen.doctor.hashes import accept
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.families.tokens.family import TOKENS
from songgen.models import SongGenConfig
from songgen.tasks import MIXED
from songgen.train import build
from songgen.train.checkpoints.files import AVERAGE_FILE, MODEL_FILE, RUN_CONFIG_FILE
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import TrainerState, read_trainer_state
from songgen.train.launch import run_training
from songgen.train.trainer import Trainer

NUM_SONGS = 7
RANDOM = {
    "dropout": 0.2,
    "condition_dropout": 0.3,
    "voice_choices": {"vocal": 1, "none": 1},
    "ema_decay": 0.8,
    "group_by_length": True,
    "warmup_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 100,
}
"""Everything that draws numbers or remembers steps."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), NUM_SONGS)


@pytest.fixture(scope="module")
def straight(world: Path) -> Callable[[int], Path]:
    """The folder of an uninterrupted run of 12 steps, by number of processes."""
    finished: dict[int, Path] = {}

    def run(processes: int) -> Path:
        if processes not in finished:
            folder = world / f"straight{processes}"
            config = write_config(world, output_dir=str(folder), max_steps=12, **RANDOM)
            fork_run(
                config, world / "log", processes=processes, hook=record_clips(world / f"clips{processes}")
            ).finish()
            finished[processes] = folder
        return finished[processes]

    return run


@pytest.fixture
def train(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run training in this process, require its exit code, and return what it printed."""

    def run(output: str, returncode: int = EXIT_DONE, **changes: Any) -> str:
        AcceleratorState._reset_state(True)
        settings: dict[str, Any] = {"num_train_epochs": 2, "do_eval": False} | changes
        config = write_config(world, output_dir=str(tmp_path / output), **settings)
        found = run_training([str(config)], MIXED)
        AcceleratorState._reset_state(True)
        printed = "".join(capsys.readouterr())
        assert found == returncode, printed
        return printed

    return run


def newest(folder: Path, world_size: int = 1) -> Path:
    """The checkpoint that a run would go on from."""
    found = CheckpointManager(folder, save_total_limit=None, rank=0, world_size=world_size).latest()
    assert found is not None
    return found


@pytest.mark.case(8)
@pytest.mark.parametrize(
    ("processes", "workers", "stop_step"),
    [
        (1, 2, 4),
        (2, 2, 5),
        pytest.param(1, 0, 5, marks=pytest.mark.faults),
        pytest.param(1, 2, 5, marks=pytest.mark.faults),
        pytest.param(2, 0, 4, marks=pytest.mark.faults),
        pytest.param(2, 0, 5, marks=pytest.mark.faults),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, straight: Callable[[int], Path], processes: int, workers: int, stop_step: int
) -> None:
    """12 steps against some and the rest; an epoch has 4 steps with one process, 2 with two.

    Weights, optimizer, average, random state, position and metrics are compared, and the clips of every step.
    """
    folder = tmp_path / "run"
    settings: dict[str, Any] = RANDOM | {"dataloader_num_workers": workers, "max_steps": 12}
    config = write_config(world, output_dir=str(folder), **settings)
    stopping = record_clips(tmp_path / "clips", stop_at(stop_step, rank=processes - 1))
    fork_run(config, tmp_path / "log", processes=processes, hook=stopping).finish()
    stopped = read_trainer_state(newest(folder, processes))
    assert stopped.step == stop_step and (stopped.batches_in_epoch == 0) == (stop_step == 4)
    fork_run(config, tmp_path / "log", processes=processes, hook=record_clips(tmp_path / "clips")).finish()

    expected = straight(processes)
    assert saved_files(newest(folder, processes)) == saved_files(newest(expected, processes))
    assert recorded_clips(tmp_path / "clips") == recorded_clips(world / f"clips{processes}")
    assert measured(folder) == measured(expected)


def measured(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what the clock says."""
    volatile = {"time", "train/tokens_per_second", "train/samples_per_second"}
    return [{name: value for name, value in line.items() if name not in volatile} for line in records(folder)]


@pytest.mark.case(13)
@pytest.mark.parametrize(
    ("first", "second", "form"), [(1, 2, "model"), (2, 1, "model"), (1, 2, "adapter"), (2, 1, "adapter")]
)
def test_another_number_of_processes_is_refused_unless_asked_for(
    world: Path, tmp_path: Path, first: int, second: int, form: str
) -> None:
    """Then every process goes on from the same step, every song comes once an epoch, and the rate walks its curve."""
    folder = tmp_path / "run"
    settings: dict[str, Any] = {"num_train_epochs": 4, "lr_scheduler_type": "linear", "dropout": 0.2, **KEYS[form]}
    config = write_config(world, output_dir=str(folder), **settings)
    stopping = record_clips(tmp_path / "clips", stop_at(3))
    fork_run(config, tmp_path / "log", processes=first, hook=stopping).finish()
    before = saved_files(newest(folder, first))

    printed = fork_run(config, tmp_path / "refused", processes=second).finish(EXIT_ERROR)
    assert f"- processes: {first} then, {second} now" in printed and "allow_world_size_change" in printed
    assert saved_files(newest(folder, first)) == before

    config = write_config(world, output_dir=str(folder), **settings, allow_world_size_change=True)
    printed = fork_run(config, tmp_path / "allowed", processes=second, hook=record_clips(tmp_path / "clips")).finish()
    assert "no longer exact: dropout samples other numbers" in printed
    places = re.findall(r"epoch (\d+)/([\d.]+) \((\d+)/(\d+)\)", printed)
    assert {epochs for _, epochs, _, _ in places} == {"4"}
    assert all(int(done) <= int(all_steps) for _, _, done, all_steps in places), places
    assert sum(done == all_steps for _, _, done, all_steps in places) == len({epoch for epoch, _, _, _ in places})

    entries = recorded_clips(tmp_path / "clips")
    songs = {f"song{index}" for index in range(NUM_SONGS)}
    for epoch in range(4):
        seen = Counter(clip for entry in entries if entry["epoch"] == epoch for clip in entry["clips"])
        assert seen == Counter(songs), f"epoch {epoch}"
    ranks = {step: [entry["rank"] for entry in group] for step, group in by_step(entries).items()}
    assert ranks == {step: list(range(first if step < 3 else second)) for step in range(len(ranks))}
    state = read_trainer_state(newest(folder, second))
    assert (state.step, state.epoch, state.samples_seen) == (len(ranks), 4, 4 * NUM_SONGS)

    rates = [line["train/learning_rate"] for line in records(folder) if "train/learning_rate" in line]
    falls = [before - after for before, after in itertools.pairwise([*rates, 0.0])]
    assert rates[3] == pytest.approx(rates[2] - falls[0]), "no jump where the number of processes changed"
    assert falls[3:] == pytest.approx([falls[3]] * len(falls[3:])), "an even pace down to zero"
    assert (falls[3] > falls[0]) == (second > first)


def by_step(entries: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Records of each step."""
    return {step: list(group) for step, group in itertools.groupby(entries, key=lambda entry: entry["step"])}


@pytest.mark.case(13)
@in_both_forms
def test_after_a_change_of_processes_a_run_is_exact_again(world: Path, tmp_path: Path, form: str) -> None:
    """1 process for 3 steps, then 2: stopped once more or not, it ends with the same weights."""
    finals = []
    for name, stops in (("straight", []), ("stopped", [5])):
        folder = tmp_path / name
        settings: dict[str, Any] = {"num_train_epochs": 4, "dropout": 0.2, "allow_world_size_change": True}
        config = write_config(world, output_dir=str(folder), **settings, **KEYS[form])
        fork_run(config, tmp_path / "log", hook=stop_at(3)).finish()
        for stop in stops:
            fork_run(config, tmp_path / "log", processes=2, hook=stop_at(stop)).finish()
        fork_run(config, tmp_path / "log", processes=2).finish()
        finals.append(saved_files(newest(folder, 2)))
    assert finals[0] == finals[1]


@pytest.fixture
def begun(train: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Train some steps of a run of two epochs (of 4 steps) and stop."""

    def run(output: str, step: int, **changes: Any) -> None:
        original = Trainer.step

        def stopping(self: Trainer, batches: Any) -> Any:
            signal_at(self, step)
            return original(self, batches)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", stopping)
            train(output, **changes)

    return run


@pytest.mark.case(15)
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 5e-4},
        {"num_train_epochs": 3.0},
        {"max_steps": 20},
        {"lr_scheduler_type": "linear"},
        {"gradient_accumulation_steps": 1},
        {"dropout": 0.5},
        {"ema_decay": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_computation_is_refused_unless_asked_for(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path, changes: dict[str, Any]
) -> None:
    begun("run", 3)
    printed = train("run", EXIT_ERROR, **changes)
    ((name, value),) = changes.items()
    assert f"{name}: " in printed and f"then, {value} now" in printed and "allow_config_changes" in printed
    assert len(records(tmp_path / "run")) == 3, "nothing was trained"
    assert f"- {name}: " in train("run", **changes, allow_config_changes=True)
    assert read_trainer_state(newest(tmp_path / "run")).batches_in_epoch in (0, 8)


@pytest.mark.case(15)
def test_a_changed_schedule_takes_effect(train: Callable[..., str], begun: Callable[..., None], tmp_path: Path) -> None:
    """From the step of the change on the rates are those of a run that had the new schedule from its beginning."""
    schedule: dict[str, Any] = {"learning_rate": 5e-4, "lr_scheduler_type": "linear", "num_train_epochs": 3}
    begun("run", 3)
    train("run", **schedule, allow_config_changes=True)
    train("new", **schedule)
    old, new = (rates_of(tmp_path / name) for name in ("run", "new"))
    assert old[3:] == new[3:] and len(old) == 12 and old[:3] != new[:3]


@pytest.mark.case(15)
def test_the_curve_is_walked_faster_when_steps_grow(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path
) -> None:
    """More accumulation: fewer steps are left, and the rate still falls to the end of its curve."""
    begun("run", 4, lr_scheduler_type="linear")
    changes: dict[str, Any] = {"lr_scheduler_type": "linear", "gradient_accumulation_steps": 4}
    train("run", **changes, allow_config_changes=True)
    assert rates_of(tmp_path / "run") == pytest.approx([1e-3 * (1 - place / 8) for place in (0, 1, 2, 3, 4, 6)])


def rates_of(folder: Path) -> list[float]:
    """Learning rate of every step."""
    return [line["train/learning_rate"] for line in records(folder) if "train/learning_rate" in line]


@pytest.mark.case(15)
def test_batches_change_at_the_end_of_an_epoch_only(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"per_device_train_batch_size": 2, "allow_config_changes": True}
    begun("inside", 3)
    printed = train("inside", EXIT_ERROR, **changes)
    assert "in the middle of an epoch" in printed and "batch_size: 1 then, 2 now" in printed
    begun("edge", 4)
    train("edge", **changes)
    state = read_trainer_state(newest(tmp_path / "edge"))
    assert (state.step, state.epoch, state.samples_seen) == (6, 2, 2 * NUM_SONGS)


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track_pattern": "mixed"}, "- track_pattern: None then, mixed now (cannot change within a run"),
        ({"freeze_cross": True}, "- freeze_cross: False then, True now (cannot change within a run"),
        ({"max_train_samples": 5}, "- max_train_samples: None then, 5 now (cannot change within a run"),
        ({"rope_embeddings": True}, "- rope_embeddings: None then, True now (cannot change within a run"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shapes_and_data_never_change_within_a_run(
    train: Callable[..., str], begun: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    begun("run", 3)
    printed = train("run", EXIT_ERROR, **changes, allow_config_changes=True)
    assert message in printed and "start a new output_dir" in printed


@pytest.mark.case(15)
def test_everything_that_is_refused_is_named_at_once(train: Callable[..., str], begun: Callable[..., None]) -> None:
    begun("run", 3)
    printed = train("run", EXIT_ERROR, learning_rate=5e-4, freeze_cross=True, logging_steps=2)
    assert "- learning_rate: " in printed and "- freeze_cross: " in printed and "- logging_steps: " not in printed


@pytest.mark.case(15)
def test_a_refused_run_leaves_the_configuration_of_the_run(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path
) -> None:
    begun("run", 3)
    before = (tmp_path / "run" / RUN_CONFIG_FILE).read_bytes()
    train("run", EXIT_ERROR, learning_rate=5e-4)
    assert (tmp_path / "run" / RUN_CONFIG_FILE).read_bytes() == before
    train("run", learning_rate=5e-4, allow_config_changes=True)
    assert (tmp_path / "run" / RUN_CONFIG_FILE).read_bytes() != before


@pytest.mark.case(15)
def test_an_average_that_begins_late_begins_with_the_weights_of_the_checkpoint(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path
) -> None:
    begun("run", 7)
    begun_with = load_file(newest(tmp_path / "run") / MODEL_FILE)
    train("run", ema_decay=0.25, allow_config_changes=True)
    last = newest(tmp_path / "run")
    trained, average = load_file(last / MODEL_FILE), load_file(last / AVERAGE_FILE)
    for name, value in average.items():
        torch.testing.assert_close(value, 0.25 * begun_with[name] + 0.75 * trained[name], msg=name)


@pytest.mark.case(15)
def test_intervals_and_helpers_change_without_asking(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"logging_steps": 2, "dataloader_num_workers": 1, "save_steps": 2, "do_eval": True}
    begun("run", 3)
    assert "- logging_steps: 1 then, 2 now (takes effect)" in train("run", **changes)
    train("straight")
    assert (
        saved_files(newest(tmp_path / "run"))["model.safetensors"]
        == (saved_files(newest(tmp_path / "straight"))["model.safetensors"])
    )


@pytest.mark.case(15)
def test_model_and_data_may_move_but_not_change(
    train: Callable[..., str], begun: Callable[..., None], world: Path, tmp_path: Path
) -> None:
    """Model, encoders, tokenizers and data lie at other paths: the same content is taken, another one refused."""
    write_model_folder(tmp_path / "moved_model")
    write_dataset(tmp_path / "moved_data", tmp_path / "moved_model", NUM_SONGS, 3)
    write_dataset(tmp_path / "other_data", tmp_path / "moved_model", NUM_SONGS - 1, 3)
    shutil.copytree(tmp_path / "moved_model", tmp_path / "other_model")
    tensors = load_file(tmp_path / "other_model" / "model.safetensors")
    tensors["embed_prompts.weight"][3] += 1
    save_file(tensors, tmp_path / "other_model" / "model.safetensors")
    accept(tmp_path / "other_model")
    settings: dict[str, Any] = {"freeze_cross": True}
    begun("run", 3, **settings)
    printed = train("run", EXIT_ERROR, save_to_disk=str(tmp_path / "other_data"), **settings)
    assert "- data_sha256: " in printed and "not those that the checkpoint was trained with" in printed
    printed = train("run", EXIT_ERROR, model_name_or_path=str(tmp_path / "other_model"), **settings)
    assert "- frozen_parameters_sha256: " in printed
    moved = {"model_name_or_path": str(tmp_path / "moved_model"), "save_to_disk": str(tmp_path / "moved_data")}
    train("run", **moved, **settings)
    train("straight", **settings)
    assert saved_files(newest(tmp_path / "run")) == saved_files(newest(tmp_path / "straight"))


@pytest.mark.case(15)
def test_a_model_of_another_width_is_refused(
    train: Callable[..., str], begun: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun("run", 3, add_vocal_loss=True)

    def wider(*arguments: Any, **fields: Any) -> SongGenConfig:
        config = tiny_config(*arguments, **fields)
        return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, ffn_dim=64))

    monkeypatch.setattr(training_fakes, "tiny_config", wider)
    folder = write_model_folder(tmp_path / "wide")
    changes: dict[str, Any] = {"model_name_or_path": str(folder), "allow_config_changes": True}
    printed = train("run", EXIT_ERROR, add_vocal_loss=True, **changes)
    assert "trained with other parameters" in printed and "fc1" in printed


@pytest.mark.case(16)
@in_both_forms
def test_another_order_of_the_parameters_is_refused(
    train: Callable[..., str], begun: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    begun("run", 3, **KEYS[form])

    def reordered(*arguments: Any) -> Any:
        core = TOKENS.open_model(*arguments)
        core._modules["lyrics_encoder"] = core._modules.pop("lyrics_encoder")
        return core

    with monkeypatch.context() as patch:
        patch.setattr(build, "family_of", lambda *_: dataclasses.replace(TOKENS, open_model=reordered))
        printed = train("run", EXIT_ERROR, **KEYS[form])
    assert "parameters are in another order" in printed
    assert len(records(tmp_path / "run")) == 3
    train("run", **KEYS[form])


@pytest.mark.case(8)
def test_the_position_survives_json() -> None:
    state = TrainerState(step=3, total_steps=8)
    state.curve = dataclasses.replace(state.curve, length=8, step=3.0, update=2.0, rate=7 / 4)
    assert TrainerState.from_json(state.to_json()) == state


def comparable_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics without times and rates."""
    clocks = ("time", "train/tokens_per_second", "train/samples_per_second")
    return [{name: value for name, value in record.items() if name not in clocks} for record in records(folder)]


@pytest.mark.case(8)
@pytest.mark.parametrize("processes", [1, 2])
def test_metrics_of_a_resumed_run_cover_every_step(world: Path, tmp_path: Path, processes: int) -> None:
    """Whatever the intervals: lines at steps 5 and 10, checkpoints at 3, 6, 9; killed in step 5, stopped after 8."""
    settings: dict[str, Any] = {
        "max_steps": 12, "logging_steps": 5, "save_steps": 3, "do_eval": False, "save_total_limit": None,
    }  # fmt: skip
    straight = write_config(world, output_dir=str(tmp_path / "straight"), **settings)
    fork_run(straight, tmp_path / "log", processes=processes).finish()
    config = write_config(world, output_dir=str(tmp_path / "run"), **settings)

    def kill(rank: int) -> None:
        def at_step(trainer: Trainer, batches: Any) -> None:
            if trainer.state.step == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        before_each_step(at_step)

    assert fork_run(config, tmp_path / "log", processes=processes, hook=kill).wait_for_a_kill()
    fork_run(config, tmp_path / "log", processes=processes, hook=stop_at(8)).finish()
    assert [record["step"] for record in records(tmp_path / "run")] == [5, 8]
    fork_run(config, tmp_path / "log", processes=processes).finish()
    expected = comparable_metrics(tmp_path / "straight")
    assert [record["step"] for record in expected] == [5, 10, 12] and "train/loss" in expected[0]
    assert [record for record in comparable_metrics(tmp_path / "run") if record["step"] != 8] == expected
    assert saved_files(tmp_path / "run" / "checkpoint-12") == saved_files(tmp_path / "straight" / "checkpoint-12")
