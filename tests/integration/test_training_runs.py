"""Whole runs in this process: resume, small data, stages, freezing, bad numbers, refusals."""

import gc
import json
import re
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_fakes import write_dataset, write_model_folder

from songgen.conditioning.cache import FeatureCache
from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_NO_CHECKPOINT, EXIT_NON_FINITE
from songgen.families.tokens.parameter_groups import TOKEN_GROUPS
from songgen.families.tokens.song_samples import SongSamples
from songgen.models import SongGenDualTrackForConditionalGeneration, modeling_songgen
from songgen.runtime.processes.commands import Action, Command, Inbox, Interrupted
from songgen.runtime.status import EVALUATION_STATUS_FILE, RUN_STATUS_FILE, read_run_status
from songgen.tasks import DUAL_TRACK, MIXED, Task
from songgen.train import build, launch
from songgen.train.checkpoints.files import read_manifest
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import CheckpointContents, read_trainer_state
from songgen.train.evaluation import Evaluator
from songgen.train.launch import run_training
from songgen.train.optimization.anomalies import AnomalyWatch, NonFiniteError
from songgen.train.step import TrainingStep

NUM_TRAIN, NUM_EVALUATION = 7, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    folder = tmp_path_factory.mktemp("world")
    write_model_folder(folder / "model")
    write_dataset(folder / "data", folder / "model", NUM_TRAIN, NUM_EVALUATION)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def train(world: Path, tmp_path: Path) -> Callable[..., int]:
    """Run training with a small configuration; keywords change its keys."""

    def run(output: str, task: Task = MIXED, **changes: Any) -> int:
        config: dict[str, Any] = {
            "model_name_or_path": str(world / "model"),
            "save_to_disk": str(world / "data"),
            "output_dir": str(tmp_path / output),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "add_vocal_loss": task is MIXED,
            "logging_steps": 1,
            "save_steps": 100,
            "every_plot_step": None,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config | changes))
        return run_training([str(path)], task)

    return run


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let a stop signal have come after so many steps."""
    calls = iter(range(1, 10**6))
    stop_once(monkeypatch, lambda: next(calls) >= steps)


def stop_once(monkeypatch: pytest.MonkeyPatch, due: Callable[[], bool]) -> None:
    """Let a stop be asked for once something is true, wherever the run looks for commands."""

    def look(inbox: Inbox) -> None:
        if due():
            inbox.stop = Command(Action.STOP, "the test")

    monkeypatch.setattr(Inbox, "_look", look)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint_states(folder: Path) -> list[Any]:
    return sorted(
        (read_trainer_state(path.parent) for path in folder.rglob("trainer_state.json")), key=lambda s: s.step
    )


def test_a_finished_run_is_extended_by_more_epochs(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("run", num_train_epochs=1) == EXIT_DONE
    assert train("run", num_train_epochs=1) == EXIT_DONE
    assert len(records(tmp_path / "run")) == 2
    assert train("run", num_train_epochs=2) == EXIT_ERROR
    assert train("run", num_train_epochs=2, allow_config_changes=True) == EXIT_DONE
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_short_run_logs_and_saves_before_its_end_unless_told_otherwise(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipes give no intervals: 20 steps are logged one by one and saved in between."""
    short = {"max_steps": 20, "save_total_limit": None}
    assert train("run", logging_steps="auto", save_steps="auto", **short) == EXIT_DONE
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, 21))
    assert [state.step for state in checkpoint_states(tmp_path / "run")] == list(range(1, 21))
    assert "before its end" not in capsys.readouterr().err
    assert train("published", logging_steps=2_000, save_steps=10_000, **short) == EXIT_DONE
    printed = capsys.readouterr().err
    assert "logging_steps 2,000 in a run of 20 steps: no metrics before its end" in printed
    assert "save_steps 10,000 in a run of 20 steps: no checkpoint before its end" in printed


@pytest.mark.parametrize(
    ("keys", "drawn"),
    [({}, []), ({"plot_epochs": 1}, [2, 4, 6]), ({"every_plot_step": 5, "do_eval": False}, [5, 6])],
)
def test_plots_are_drawn_at_intervals_in_epochs_or_steps(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], drawn: list[int]
) -> None:
    """An epoch has two steps; the end of the run counts."""
    found: list[int] = []

    class Drawn:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def draw(self) -> None:
            found.append(records(self.folder)[-1]["step"])

        def close(self) -> None:
            pass

    monkeypatch.setattr(build, "BackgroundPlots", Drawn)
    assert train("run", **keys) == EXIT_DONE
    assert found == drawn


def test_a_run_with_16_bit_weights_is_resumed_exactly_and_writes_float32(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, frozen parts, a moving average, evaluation and generated songs; clipped by value."""
    settings = {
        "dtype": "bfloat16", "weights_dtype": "bfloat16", "dropout": 0.2, "freeze": ["heads"], "ema_decay": 0.5,
        "do_eval": True, "eval_strategy": "steps", "eval_steps": 2, "gradient_clip_algorithm": "value",
        "max_grad_norm": 1e-3, "predict_with_generate": True, "num_generated_samples": 1, "max_length": 12,
    }  # fmt: skip
    assert train("straight", **settings) == EXIT_DONE
    AcceleratorState._reset_state(True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train("run", **settings) == EXIT_DONE
    AcceleratorState._reset_state(True)
    assert train("run", **settings) == EXIT_DONE

    def numbers(folder: Path) -> list[dict[str, Any]]:
        dropped = ("time", "train/tokens_per_second", "train/samples_per_second")
        return [{name: value for name, value in row.items() if name not in dropped} for row in records(folder)]

    assert numbers(tmp_path / "run") == numbers(tmp_path / "straight")
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("straight", "run")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    for name, tensor in models[0].items():
        assert tensor.dtype == (torch.bfloat16 if name.startswith("decoder.lm_heads") else torch.float32), name


def test_a_run_with_stored_voices_has_no_encoders_in_memory_and_is_resumed_exactly(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded: list[dict[str, bool]] = []
    step = TrainingStep.run

    def run(self: TrainingStep, *arguments: Any, **keywords: Any) -> Any:
        core: Any = self.engine.model
        loaded.append({name: part.is_loaded for name, part in core.attached().items() if name != "audio_codec"})
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(TrainingStep, "run", run)
    settings = {
        "voice_feature_crops": 2, "ref_dur_sec": 0.03, "feature_cache_dir": str(tmp_path / "features"), "dropout": 0.2,
        "do_eval": True, "eval_strategy": "steps", "eval_steps": 2, "predict_with_generate": True,
        "num_generated_samples": 1, "max_length": 12,
    }  # fmt: skip
    assert train("straight", **settings) == EXIT_DONE
    printed = capsys.readouterr().err
    assert "the text_encoder is not kept in memory" in printed and "the voice_encoder is not kept" in printed
    assert "loaded again" not in printed, "not even for the songs of the evaluation"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train("run", **settings) == EXIT_DONE
    assert train("run", **settings) == EXIT_DONE
    assert "0 of" in capsys.readouterr().err
    assert loaded and all(states == {"text_encoder": False, "voice_encoder": False} for states in loaded)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("straight", "run")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_the_model_says_whether_training_showed_songs_without_conditions(
    train: Callable[..., int], tmp_path: Path
) -> None:
    """Guidance needs them, in whichever stage that was."""
    assert train("first", max_steps=1, condition_dropout=0.2) == EXIT_DONE
    assert train("second", max_steps=1, model_name_or_path=str(tmp_path / "first")) == EXIT_DONE
    assert train("without", max_steps=1) == EXIT_DONE
    recorded = [
        json.loads((tmp_path / run / "config.json").read_text())["condition_dropout"]
        for run in ("first", "second", "without")
    ]
    assert recorded == [0.2, 0.2, 0.0]


def test_epochs_are_shown_after_a_resume_with_half_the_batch(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)  # two epochs of two steps
        assert train("run") == EXIT_DONE
    capsys.readouterr()
    assert train("run", per_device_train_batch_size=1, allow_config_changes=True) == EXIT_DONE
    printed = capsys.readouterr().err
    assert "8 in 3 epochs" in printed
    assert re.findall(r"epoch \S+ \(\S+\)", printed) == [f"epoch 3/3 ({step}/4)" for step in range(1, 5)]


def test_a_refused_launch_leaves_the_status_of_a_run_that_had_ended(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert train("run") == EXIT_DONE
    for status in ("stopped", "finished"):
        before = (tmp_path / "run" / RUN_STATUS_FILE).read_bytes()
        assert json.loads(before)["status"] == status
        assert train("run", learning_rate=1e-3) == EXIT_ERROR
        assert (tmp_path / "run" / RUN_STATUS_FILE).read_bytes() == before
        assert not list((tmp_path / "run").glob("heartbeat-*"))
        assert train("run") == EXIT_DONE
    assert train("new", max_description_token_length=1) == EXIT_ERROR
    status = read_run_status(tmp_path / "new")
    assert status is not None and status.status == "failed" and "no clip of 7 is left" in str(status.reason)


def test_an_evaluation_leaves_the_status_of_the_training_run(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert train("run") == EXIT_DONE
    before = (tmp_path / "run" / RUN_STATUS_FILE).read_bytes()
    assert train("run", do_train=False, do_eval=True) == EXIT_DONE
    assert (tmp_path / "run" / RUN_STATUS_FILE).read_bytes() == before
    evaluation = read_run_status(tmp_path / "run", EVALUATION_STATUS_FILE)
    assert evaluation is not None and (evaluation.status, evaluation.step) == ("finished", 1)


def test_a_stop_whose_checkpoint_cannot_be_written_does_not_pass_for_a_good_end(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(monkeypatch, 2)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", lambda *arguments, **keywords: None)
        assert train("run") == EXIT_NO_CHECKPOINT
    message = "asked to stop, but the checkpoint of step 2 could not be written, there is no checkpoint"
    assert message in capsys.readouterr().err
    status = read_run_status(tmp_path / "run")
    assert status is not None and (status.status, status.exit_code) == ("failed", EXIT_NO_CHECKPOINT)


@pytest.mark.parametrize(("saved", "code"), [(True, EXIT_NON_FINITE), (False, EXIT_NO_CHECKPOINT)])
def test_a_run_that_ends_of_bad_numbers_says_whether_the_weights_from_before_are_saved(
    train: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    saved: bool,
    code: int,
) -> None:
    def not_finite(*arguments: Any) -> bool:
        raise NonFiniteError("the loss is nan.")

    monkeypatch.setattr(AnomalyWatch, "after_step", not_finite)
    if not saved:
        monkeypatch.setattr(CheckpointManager, "save", lambda *arguments, **keywords: None)
    assert train("run") == code
    printed = capsys.readouterr().err
    assert "the loss is nan." in printed and ("These weights are not saved" in printed) == (not saved)


@pytest.mark.parametrize(("overwrite", "way"), [(False, ""), (True, " without overwrite_output_dir")])
def test_a_stopped_run_says_which_command_goes_on_from_there(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overwrite: bool,
    way: str,
) -> None:
    stop_after(monkeypatch, 1)
    assert train("run", overwrite_output_dir=overwrite) == EXIT_DONE
    assert f"stopped after step 1; the same command{way} continues from there" in capsys.readouterr().err


def evaluated_losses(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float | None]) -> None:
    """Let the evaluation after each step find a loss; None: a stop signal comes in it, the first time."""

    def run(evaluator: Evaluator, model: Any, core: Any, step: int, *others: Any) -> dict[str, float]:
        loss = losses[step]
        if loss is None:
            losses[step] = 1.0
            raise Interrupted
        return {"loss": loss}

    monkeypatch.setattr(Evaluator, "run", run)


def steps_and_best(folder: Path) -> list[tuple[int, bool]]:
    """Steps of the checkpoints, and whether they say that they are the best so far."""
    manifests = [read_manifest(path) for path in folder.glob("checkpoint-*")]
    return sorted((manifest.step, manifest.best) for manifest in manifests)


@pytest.mark.parametrize(("save_steps", "expected"), [(100, [(2, True), (3, True), (6, False)]), (None, [(6, False)])])
def test_an_evaluation_with_the_lowest_loss_is_followed_by_a_checkpoint_that_stays(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_steps: int | None,
    expected: list[tuple[int, bool]],
) -> None:
    evaluated_losses(monkeypatch, {1: float("nan"), 2: 3.0, 3: 2.0, 4: 2.5, 5: 2.0, 6: 9.0})
    evaluation = {"do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
    assert train("all", save_steps=save_steps, save_total_limit=None, max_steps=6, **evaluation) == EXIT_DONE
    assert steps_and_best(tmp_path / "all") == expected
    if save_steps:
        assert train("few", save_steps=1, save_total_limit=2, max_steps=6, **evaluation) == EXIT_DONE
        assert steps_and_best(tmp_path / "few") == [(3, True), (5, False), (6, False)]


def test_the_best_is_what_a_checkpoint_could_be_written_of(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated_losses(monkeypatch, {1: 5.0, 2: 3.0, 3: 4.0, 4: 4.5})
    save = CheckpointManager.save

    def save_unless_full(self: CheckpointManager, contents: CheckpointContents, *, best: bool = False) -> Path | None:
        return None if contents.state.step == 2 else save(self, contents, best=best)

    monkeypatch.setattr(CheckpointManager, "save", save_unless_full)
    evaluation = {"do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
    assert train("run", save_steps=100, save_total_limit=None, max_steps=4, **evaluation) == EXIT_DONE
    assert steps_and_best(tmp_path / "run") == [(1, True), (3, True), (4, False)]


def test_an_evaluation_that_is_made_up_for_leaves_a_checkpoint_of_the_best(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated_losses(monkeypatch, {2: None, 4: 5.0, 6: 5.0})
    evaluation = {"do_eval": True, "eval_strategy": "steps", "eval_steps": 2}
    for status in ("stopped", "finished"):
        assert train("run", max_steps=6, **evaluation) == EXIT_DONE
        found = read_run_status(tmp_path / "run")
        assert found is not None and found.status == status
    assert steps_and_best(tmp_path / "run") == [(2, False), (2, True), (6, False)]


def test_a_resumed_run_generates_songs_at_the_steps_of_an_uninterrupted_one(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated: list[int] = []
    generate = SongSamples.generate

    def noted(songs: SongSamples) -> dict[str, float]:
        generated.append(songs.request.step)
        return generate(songs)

    monkeypatch.setattr(SongSamples, "generate", noted)
    evaluation = {
        "do_eval": True, "eval_strategy": "steps", "eval_steps": 1, "predict_with_generate": True,
        "num_generated_samples": 1, "max_length": 10, "eval_generation_steps": 2, "max_steps": 6, "save_steps": 2,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        stop_once(patch, (tmp_path / "run" / "checkpoint-2").exists)
        assert train("run", **evaluation) == EXIT_DONE
    assert generated == [2]
    assert train("run", **evaluation) == EXIT_DONE
    assert generated == [2, 4, 6]


def test_max_steps_wins_over_epochs_and_the_model_is_written(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("short", max_steps=3) == EXIT_DONE
    state = checkpoint_states(tmp_path / "short")[-1]
    assert (state.step, state.epoch, state.step_in_epoch) == (3, 1, 1)
    assert (tmp_path / "short" / "model.safetensors").is_file()


def test_a_mixed_run_is_the_start_of_a_dual_track_run(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mixed", max_steps=1) == EXIT_DONE
    start = str(tmp_path / "mixed")
    assert train("refused", DUAL_TRACK, model_name_or_path=start) == EXIT_ERROR
    assert "set track_pattern to one of parallel_std" in capsys.readouterr().err
    dual = {"model_name_or_path": start, "track_pattern": "interleaving_A_V", "freeze_cross": True, "max_steps": 2}
    assert train("dual", DUAL_TRACK, **dual) == EXIT_DONE
    assert "warm start from layout mixed_pro to interleaving_A_V" in capsys.readouterr().err
    before = load_file(tmp_path / "mixed" / "model.safetensors")
    after = load_file(tmp_path / "dual" / "model.safetensors")
    changed = {TOKEN_GROUPS.group_of(name) for name in after if not torch.equal(after[name], before[name])}
    assert changed and not changed & set(TOKEN_GROUPS.aliases["cross"])
    model = SongGenDualTrackForConditionalGeneration.from_pretrained(tmp_path / "dual")
    assert model.layout.name == "interleaving_A_V" and model.text_encoder.hidden_size


def test_songs_of_which_none_has_a_voice_are_told_of(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("quiet", max_steps=1, voice_min_energy=1001.0) == EXIT_DONE
    numbers = (
        "7 of 7 clips hold a vocal track for it, the highest energy of these tracks is 1000, voice_min_energy is 1001"
    )
    assert numbers in capsys.readouterr().err
    assert train("asked for none", max_steps=1, voice_min_energy=1001.0, voice_choices={"none": 1}) == EXIT_DONE
    assert train("loud", max_steps=1) == EXIT_DONE
    assert "reference voice" not in capsys.readouterr().err


def test_further_descriptions_are_trained_on_where_asked(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    put = FeatureCache.put

    def remember(cache: FeatureCache, key: str, features: dict[str, torch.Tensor]) -> None:
        kept.append(key)
        put(cache, key, features)

    monkeypatch.setattr(FeatureCache, "put", remember)
    num_kept, losses = [], []
    for share in (0.0, 1.0):
        kept.clear()
        assert train(f"share{share:g}", caption_variants=share, max_steps=1) == EXIT_DONE
        num_kept.append(len(kept))
        losses.append([record.get("train/loss") for record in records(tmp_path / f"share{share:g}")])
    assert losses[0] != losses[1]
    # Both descriptions of every song are encoded before training begins, also of songs that the only step does not see.
    assert num_kept[1] == num_kept[0] + 2 * NUM_TRAIN


def test_evaluation_and_songs_are_reported(train: Callable[..., int], tmp_path: Path) -> None:
    settings = {"do_eval": True, "predict_with_generate": True, "num_generated_samples": 2, "max_length": 15}
    assert train("sung", max_steps=1, ema_decay=0.9, **settings) == EXIT_DONE
    evaluated = [record for record in records(tmp_path / "sung") if "eval/loss" in record]
    assert [record["step"] for record in evaluated] == [1]
    assert {"eval/accuracy", "eval/vocal_loss", "eval/mel_distance", "eval/mix/codebook_0/loss"} <= set(evaluated[0])
    names = sorted(path.name for path in (tmp_path / "sung").rglob("*.wav"))
    assert names == [f"held_out{song}_{kind}_mix.wav" for song in (0, 1) for kind in ("generated", "original")]


def test_the_codec_is_in_memory_only_while_songs_are_decoded(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs: list[weakref.ref[Any]] = []
    load = modeling_songgen.FROZEN_NETWORKS["audio_codec"]

    def noted(*given: Any, **named: Any) -> Any:
        assert all(codec() is None for codec in codecs), "the codec from before is still there"
        codec = load(*given, **named)
        codecs.append(weakref.ref(codec))
        return codec

    monkeypatch.setitem(modeling_songgen.FROZEN_NETWORKS, "audio_codec", noted)
    settings = {"do_eval": True, "predict_with_generate": True, "num_generated_samples": 1, "max_length": 15}
    assert train("sung", max_steps=1, **settings) == EXIT_DONE
    gc.collect()
    assert len(codecs) == 2, "once at the start, to know that it is there, and once for the songs"
    assert all(codec() is None for codec in codecs)


def test_the_lyrics_tokenizer_of_a_run_goes_with_its_model(
    world: Path, train: Callable[..., int], tmp_path: Path
) -> None:
    shutil.copytree(world / "model", tmp_path / "bare")
    tokenizer = (tmp_path / "bare" / "lyrics_tokenizer.json").rename(tmp_path / "lyrics.json")
    settings = {"model_name_or_path": str(tmp_path / "bare"), "lyrics_tokenizer": str(tokenizer)}
    assert train("whole", max_steps=1, **settings) == EXIT_DONE
    assert (tmp_path / "whole" / "lyrics_tokenizer.json").is_file()


def test_only_evaluating_trains_nothing(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("judged", do_train=False, do_eval=True) == EXIT_DONE
    assert [set(record) & {"train/loss", "eval/loss"} for record in records(tmp_path / "judged")] == [{"eval/loss"}]
    assert not list((tmp_path / "judged").rglob("*.safetensors"))


def test_a_finished_model_is_published_and_a_missing_account_is_noticed_first(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("unknown", push_to_hub=True) == EXIT_ERROR
    assert "no account for the hub" in capsys.readouterr().err and not (tmp_path / "unknown").exists()
    calls: list[Any] = []
    monkeypatch.setattr(launch, "require_account", lambda: None)
    monkeypatch.setattr(launch, "publish", lambda *arguments, **keywords: calls.append((arguments, keywords)))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert train("pushed", push_to_hub=True, hub_model_id="someone/songs") == EXIT_DONE
    assert not calls
    assert train("pushed", push_to_hub=True, hub_model_id="someone/songs") == EXIT_DONE
    assert calls == [((tmp_path / "pushed", "someone/songs"), {"private": True})]


def test_bfloat16_and_recomputed_activations_train(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("plain", max_steps=2) == EXIT_DONE
    AcceleratorState._reset_state(True)
    assert train("half", max_steps=2, dtype="bfloat16", gradient_checkpointing=True) == EXIT_DONE
    plain, half = (records(tmp_path / name)[-1]["train/loss"] for name in ("plain", "half"))
    assert half == pytest.approx(plain, rel=0.05) and half != plain
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track_pattern": "parallel_std", "add_vocal_loss": False}, "does not belong to the task mixed"),
        ({"max_description_token_length": 1}, "no clip of 7 is left"),
        ({"eval_split_name": "test", "do_eval": True, "max_duration_in_seconds": 0.01}, "no clip"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    assert train("refused", **changes) == EXIT_ERROR
    assert message in capsys.readouterr().err


def test_a_warning_of_a_library_reaches_the_console(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*arguments: Any) -> None:
        warnings.warn("this kernel is slow", UserWarning, stacklevel=1)
        raise ValueError("enough")

    monkeypatch.setattr(launch, "build_trainer", build)
    assert train("run") == EXIT_ERROR
    assert "warning: this kernel is slow (UserWarning, " in capsys.readouterr().err


@pytest.mark.parametrize("field", ["codec_fingerprint", "lyrics_tokenizer_fingerprint"])
def test_data_of_another_codec_or_tokenizer_is_refused(
    train: Callable[..., int], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    data = write_dataset(tmp_path / "other", world / "model", 3, 1, **{field: "another"})
    assert SongDataset.open(data, "train").num_frames.all()
    assert train("refused", save_to_disk=str(data)) == EXIT_ERROR
    assert f"{field}: the model has" in capsys.readouterr().err
    assert not (tmp_path / "refused" / "metrics.jsonl").exists()


def test_a_folder_that_is_no_run_is_refused_and_an_early_failure_does_not_block(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "plan.txt").write_text("mine")
    assert train("notes") == EXIT_ERROR
    assert "overwrite_output_dir" in capsys.readouterr().err
    assert train("early", max_description_token_length=1) == EXIT_ERROR
    assert train("early", max_steps=1) == EXIT_DONE
