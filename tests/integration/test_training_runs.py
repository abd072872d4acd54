"""Whole runs in this process: resume, small data, stages, freezing, bad numbers, refusals."""

import gc
import json
import shutil
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
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.models import SongGenDualTrackForConditionalGeneration, modeling_songgen
from songgen.models.freeze import CROSS_GROUPS, group_of
from songgen.tasks import DUAL_TRACK, MIXED, Task
from songgen.train import launch
from songgen.train.launch import run_training
from songgen.train.run_status import EVALUATION_STATUS_FILE, RUN_STATUS_FILE, read_run_status
from songgen.train.signals import StopSignals
from songgen.train.state import read_trainer_state

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
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config | changes))
        return run_training([str(path)], task)

    return run


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let a stop signal have come after so many steps."""
    calls = iter(range(1, 10**6))
    monkeypatch.setattr(StopSignals, "requested", lambda self: next(calls) >= steps)


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
    changed = {group_of(name) for name in after if not torch.equal(after[name], before[name])}
    assert changed and not changed & set(CROSS_GROUPS)
    model = SongGenDualTrackForConditionalGeneration.from_pretrained(tmp_path / "dual")
    assert model.layout.name == "interleaving_A_V" and model.text_encoder.hidden_size


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
    load = modeling_songgen.load_codec

    def noted(*given: Any, **named: Any) -> Any:
        assert all(codec() is None for codec in codecs), "the codec from before is still there"
        codec = load(*given, **named)
        codecs.append(weakref.ref(codec))
        return codec

    monkeypatch.setattr(modeling_songgen, "load_codec", noted)
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
