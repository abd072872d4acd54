"""Opening a token model for training: what is checked changes nothing, and what is loaded is said by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from training_fakes import tiny_codec, tiny_objective, write_dataset, write_model_folder

from songgen.config import RunConfig
from songgen.data.dataset import SongDataset
from songgen.families import registry
from songgen.families.registry import family_of
from songgen.families.tokens.clips import check_clips
from songgen.families.tokens.family import TOKENS
from songgen.families.tokens.model import remember_codec
from songgen.models import SongGenForConditionalGeneration
from songgen.tasks import DUAL_TRACK, MIXED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model")
    write_dataset(tmp_path / "data", tmp_path / "model", 3, 1)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> RunConfig:
    paths = {"model_name_or_path": "model", "save_to_disk": "data", "output_dir": "run"}
    return RunConfig.from_dict({key: str(folder / path) for key, path in paths.items()} | {"add_vocal_loss": True})


def test_checking_the_clips_leaves_the_model_as_it_is(folder: Path, config: RunConfig) -> None:
    core = SongGenForConditionalGeneration.from_pretrained(folder / "model")
    before, needs = core.config, tiny_objective(core).data_needs
    check_clips(config, core, SongDataset.open(folder / "data", "train"), needs)
    assert core.config is before and before.audio_codec_fingerprint is None
    remember_codec(core, tiny_codec().fingerprint)
    assert core.config == dataclasses.replace(before, audio_codec_fingerprint=tiny_codec().fingerprint)
    remember_codec(core, "another")
    with pytest.raises(ValueError, match="codec_fingerprint: the model has 'another'"):
        check_clips(config, core, SongDataset.open(folder / "data", "train"), needs)


def test_frozen_networks_are_loaded_by_name(folder: Path) -> None:
    core = SongGenForConditionalGeneration.from_pretrained(folder / "model")
    assert core.attached() == {}
    core.load_frozen("text_encoder", "audio_codec")
    assert set(core.attached()) == {"text_encoder", "audio_codec"}
    assert core.attached()["text_encoder"] is core.text_encoder
    with pytest.raises(AssertionError, match="tokenizer"):
        core.load_frozen("tokenizer")


@pytest.mark.parametrize(
    ("voice", "generates", "loaded"),
    [
        (1.0, False, {"text_encoder", "voice_encoder", "audio_codec"}),  # the codec gives its fingerprint
        (0.0, True, {"text_encoder", "audio_codec"}),
    ],
)
def test_a_run_loads_the_networks_that_it_uses(
    folder: Path, config: RunConfig, voice: float, generates: bool, loaded: set[str]
) -> None:
    changes: dict[str, Any] = {"do_eval": generates, "predict_with_generate": generates}
    if not voice:
        changes["voice_choices"] = {"none": 1.0}
    config = RunConfig.from_dict(config.to_dict() | changes)
    assert set(TOKENS.open_model(config, MIXED).attached()) == loaded


def test_the_task_is_a_hint(config: RunConfig) -> None:
    assert TOKENS.open_model(config, None).task is MIXED
    with pytest.raises(ValueError, match="this script trains dual_track"):
        TOKENS.open_model(config, DUAL_TRACK)


def test_a_model_of_no_family_is_refused(folder: Path) -> None:
    assert family_of(folder / "model") is TOKENS
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type 'bert', expected one of songgen"):
        family_of(folder / "model")
    with pytest.raises(ValueError, match="there is no folder"):
        family_of("./nowhere")
    assert set(registry.FAMILIES) == {"songgen"}
