"""JSON files that somebody else has written: deep, absurd or repeated values are refused with the file's name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from launching import write_config
from prepare_songs import write_song
from training_fakes import write_dataset, write_model_folder

from songgen.cli.main import main
from songgen.codecs import load_codec
from songgen.conditioning import load_caption_tokenizer
from songgen.conditioning.caption_tokenizer import train_caption_tokenizer
from songgen.doctor import examine
from songgen.families.registry import family_of
from songgen.models.loading import load_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.tasks import MIXED
from songgen.train.checkpoints.files import MANIFEST_FILE, read_manifest
from songgen.train.checkpoints.folders import complete_checkpoints
from songgen.train.launch import run_training

DEEP = "[" * 50_000 + "]" * 50_000
HOSTILE = {
    "deep": f'{{"model_type": "songgen", "x": {DEEP}}}',
    "deep in itself": DEEP,
    "repeated key": '{"model_type": "songgen", "model_type": "songgen"}',
    "not a number": '{"model_type": "songgen", "decoder": {"dropout": NaN}}',
    "thousands of digits": '{"model_type": "songgen", "x": ' + "1" * 5000 + "}",
    "beyond floats": '{"model_type": "songgen", "x": 1e999}',
    "bytes": "\udcff",
    "a list": "[]",
    "a wrong form": '{"model_type": "songgen", "decoder": 5, "lyrics_encoder": []}',
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    write_model_folder(folder / "model")
    write_dataset(folder / "data", folder / "model", 6, 2)
    train_caption_tokenizer(["a calm song", "a loud song with drums"], 400, folder / "caption_tokenizer")
    return folder


@pytest.fixture
def world(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "world")
    return tmp_path / "world"


def write(path: Path, kind: str) -> None:
    path.write_text(HOSTILE[kind], encoding="utf-8", errors="surrogateescape")


OPENERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "model": (
        "model/config.json",
        lambda world: load_model(SongGenForConditionalGeneration, world / "model"),  # type: ignore[type-abstract]
    ),
    "family": (
        "model/config.json",
        lambda world: family_of(world / "model") and load_model(SongGenForConditionalGeneration, world / "model"),
    ),  # fmt: skip
    "codec": ("model/audio_codec/config.json", lambda world: load_codec(str(world / "model/audio_codec"))),
    "checkpoint": (MANIFEST_FILE, lambda world: read_manifest(world)),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", OPENERS)
def test_a_hostile_file_is_refused(world: Path, place: str, kind: str) -> None:
    name, opened = OPENERS[place]
    (world / name).parent.mkdir(parents=True, exist_ok=True)
    write(world / name, kind)
    with pytest.raises(ValueError, match=Path(name).name):
        opened(world)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["model/config.json", "data/dataset.json"])
def test_doctor_reports_a_hostile_file(world: Path, name: str, kind: str) -> None:
    write(world / name, kind)
    assert not examine((world / name).parent, deep=True).is_fine


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("command", ["train", "prepare", "tokenize"])
def test_a_hostile_configuration_is_an_error_of_the_user(
    tmp_path: Path, command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "config.json", kind)
    assert main([command, str(tmp_path / "config.json")]) == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["deep", "repeated key", "not a number", "thousands of digits", "bytes"])
def test_a_hostile_side_file_costs_its_song_alone(tmp_path: Path, kind: str) -> None:
    for seed, name in enumerate(("a", "b", "c", "d")):
        write_song(tmp_path / "songs", f"{name}.wav", seed=seed, lyrics="[instrumental]")
    (tmp_path / "songs/a_prompt.txt").unlink()
    write(tmp_path / "songs/a.json", kind)
    config = {"inputs": [str(tmp_path / "songs")], "output_dir": str(tmp_path / "out"), "voice": None}
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_bad_fraction": 0.5, "language": "en"}))
    assert main(["prepare", str(tmp_path / "config.json")]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert (row["song"], row["code"]) == ("a", "unreadable_text")


@pytest.mark.parametrize(
    "sizes",
    [
        {"decoder": {"hidden_size": 1_000_000_000}},
        {"decoder": {"num_hidden_layers": 1_000_000_000}},
        {"decoder": {"vocab_size": 1_000_000_000}},
        {"decoder": {"ffn_dim": 1_000_000_000}},
        {"decoder": {"num_codebooks": 1_000_000_000}},
        {"lyrics_encoder": {"num_blocks": 1_000_000_000}},
        {"lyrics_vocab_size": 1_000_000_000},
        {"voice_hidden_size": 1_000_000_000},
        {"decoder": {"hidden_size": 65_536, "ffn_dim": 262_144, "num_hidden_layers": 64}},
        {"lyrics_vocab_size": 16_000_000},
    ],
)
def test_sizes_of_a_billion_are_refused_before_anything_is_allocated(
    world: Path, sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world / "model/config.json"
    config = json.loads(path.read_text())
    for name, value in sizes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    (world / "model" / HASHES_FILE).unlink()  # a folder that comes from elsewhere needs none
    with pytest.raises(ValueError, match="sizes that no network has|do not fit its configuration"):
        load_model(SongGenForConditionalGeneration, world / "model")
    assert not examine(world / "model", deep=True).is_fine


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "config.json", "special_tokens_map.json"])
def test_a_caption_tokenizer_with_a_hostile_file_is_opened_or_refused(world: Path, name: str, kind: str) -> None:
    """The library reads these files; what it makes of them is its own, but no error of another kind comes out."""
    folder = world / "caption_tokenizer"
    write(folder / name, kind)
    try:
        load_caption_tokenizer(folder)
    except ValueError as error:
        assert str(folder) in str(error)


def test_a_training_run_passes_a_hostile_checkpoint_over(world: Path, tmp_path: Path) -> None:
    changes = {"output_dir": str(tmp_path / "run"), "save_steps": 2, "num_train_epochs": 2}
    AcceleratorState._reset_state(True)
    assert run_training([str(write_config(world, **changes))], MIXED) == 0
    newest = next(iter(complete_checkpoints(tmp_path / "run")))
    write(newest / MANIFEST_FILE, "deep")
    AcceleratorState._reset_state(True)
    assert run_training([str(write_config(world, **changes))], MIXED) == 0
    AcceleratorState._reset_state(True)
