"""`songgen try`: one clip, learned by heart by a configuration that learns, and a reason for one that does not."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from launching import make_world, write_config

from songgen.adapters.folder import read_adapter
from songgen.cli.main import main
from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_USAGE
from songgen.families.tokens.objective import TokenObjective
from songgen.models import SongGenForConditionalGeneration

EVERYTHING = '["cross", "audio_embeddings", "decoder", "heads", "vocal_heads"]'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a data set, and a configuration with intervals, phases and an average, as of a long run."""
    folder = make_world(tmp_path_factory.mktemp("world"), 5)
    order = [{"by": "duration", "epochs": 1}, {"by": "random"}]
    settings = {"learning_rate": 1e-2, "ema_decay": 0.999, "order": order, "eval_strategy": "steps", "eval_steps": 7}
    write_config(folder, output_dir=str(folder / "run"), **settings, warmup_steps=500, max_steps=10_000)
    return folder


def test_a_configuration_that_learns_brings_the_song_back(
    world: Path, tmp_path: Path, try_it: Callable[..., tuple[int, str]]
) -> None:
    began = time.monotonic()
    code, printed = try_it("--keep", str(tmp_path / "kept"), "--clip_seconds", "0.1")
    assert code == EXIT_DONE, printed
    assert "it learns" in printed and "*" in printed and "|" in printed
    assert time.monotonic() - began < 180
    result = json.loads((tmp_path / "kept" / "try.json").read_text())
    assert result["learned"] and result["known"] >= 0.95 and result["recall"] >= 0.9
    assert result["losses"][-1] < 0.2 * result["losses"][0]
    clip = SongDataset.open(tmp_path / "kept" / "clip", "train")
    assert len(clip) == 1 and clip.num_frames[0] <= 5
    SongGenForConditionalGeneration.from_pretrained(tmp_path / "kept" / "run")
    assert not (world / "run").exists(), "the configuration's own output folder is left alone"


def adapter(**keys: Any) -> list[str]:
    return ["--lora", json.dumps({"r": 8, "target_modules": ["all-linear", "heads"], **keys})]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (adapter(quantization="nf4"), "it learns: "),
        ([*adapter(), "--lora_learning_rate", "1e-9", "--steps", "30"], "lora_learning_rate 1e-09 is too low"),
        ([*adapter(r=1, target_modules=["q_proj"]), "--steps", "150"], "or the adapter is too small (a higher r, or"),
    ],
)
def test_an_adapter_that_learns_and_ones_that_do_not(
    tmp_path: Path, try_it: Callable[..., tuple[int, str]], words: list[str], expected: str
) -> None:
    code, printed = try_it("--clip_seconds", "0.1", "--keep", str(tmp_path / "kept"), *words)
    assert expected in printed and code == (EXIT_DONE if "it learns" in expected else EXIT_ERROR)
    assert not read_adapter(tmp_path / "kept" / "run").is_idle
    assert not (tmp_path / "kept" / "run" / "model.safetensors").exists()


def without_gradient(original: Any) -> Any:
    def loss(self: Any, model: Any, batch: Any, divisors: Any, curve: Any) -> Any:
        found = original(self, model, batch, divisors, curve)
        return type(found)(found.total * 0 + found.total.detach(), found.parts)

    return loss


def not_finite(original: Any) -> Any:
    def loss(self: Any, model: Any, batch: Any, divisors: Any, curve: Any) -> Any:
        found = original(self, model, batch, divisors, curve)
        return type(found)(found.total * torch.nan, found.parts)

    return loss


@pytest.mark.parametrize(
    ("words", "broken", "reason"),
    [
        (["--learning_rate", "1e-9", "--steps", "30"], None, "learning_rate 1e-09 is too low"),
        (["--learning_rate", "100", "--steps", "40"], None, "learning_rate 100 is too high"),
        (["--freeze", EVERYTHING], None, "every parameter of the model is frozen"),
        (["--steps", "10"], without_gradient, "no gradient reaches the trained parameters"),
        (["--steps", "10"], not_finite, "are NaN or infinite"),
        (["--seconds", "0.001"], None, "it takes too long here"),
        (["--steps", "12"], None, "there was no time to learn the clip"),
    ],
)
def test_one_that_does_not_learn_is_told_why(
    try_it: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, words: list[str], broken: Any, reason: str
) -> None:
    if broken is not None:
        monkeypatch.setattr(TokenObjective, "loss", broken(TokenObjective.loss))
    code, printed = try_it(*words)
    assert code == EXIT_ERROR and "it does not learn: " in printed
    assert reason in printed.rpartition("it does not learn: ")[2]


def test_a_song_that_comes_back_wrong_is_noticed(
    try_it: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenObjective, "recall", lambda self, core, samples: 0.2)
    code, printed = try_it("--steps", "60")
    assert code == EXIT_ERROR and "does not sing it by itself" in printed


def test_without_a_data_set_a_song_is_made(repository_root: Path, tmp_path: Path, capfd: Any) -> None:
    AcceleratorState._reset_state(True)
    model = repository_root / "tests" / "golden" / "kept" / "model_mixed"
    (tmp_path / "run.json").write_text(json.dumps({"model_name_or_path": str(model), "learning_rate": 5e-3}))
    assert main(["try", str(tmp_path / "run.json"), "--steps", "10", "--keep", str(tmp_path / "kept")]) == EXIT_ERROR
    assert "a song made for this, since there is no data set yet: song, 2.0 of 3.0 s" in capfd.readouterr().out
    songs = SongDataset.open(tmp_path / "kept" / "song_tokens", "train")
    row = songs.row(0)
    assert set(row.targets) == {"mix", "vocal", "acc"} and len(row.voice_samples) and row.lyrics


def test_wrong_options_cost_nothing(try_it: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, printed = try_it("--keep", str(tmp_path))
    assert code == EXIT_USAGE and f"--keep: {tmp_path} is not empty" in printed
    assert "--steps at least 10" in try_it("--steps", "9")[1]
