"""Case 31: a pickle runs whatever its author likes when it is read, so none is read, wherever it lies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_fakes import contents, manager
from forked import fork_run
from launching import make_world, write_config
from run_forms import WEIGHTS_FILES

from songgen.codecs import load_codec
from songgen.conditioning import load_text_encoder, load_voice_encoder
from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_ERROR
from songgen.models import SongGenForConditionalGeneration
from songgen.runtime import tensor_files
from songgen.train.checkpoints import files as checkpoint_files
from songgen.train.checkpoints.files import AVERAGE_FILE, MODEL_FILE, OPTIMIZER_FILE, random_state_file

pytestmark = pytest.mark.case(31)


class Evil:
    """To read its pickle is to run it: a folder appears."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.marker), 0o700)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The folder that appears when a pickle was read."""
    return tmp_path / "ran"


@pytest.fixture
def pickled(marker: Path, tmp_path: Path) -> Path:
    """A file that must not be read."""
    path = tmp_path / "evil.bin"
    torch.save({"weight": torch.zeros(2), "state": Evil(marker)}, path)
    return path


def test_the_file_is_as_evil_as_these_tests_believe(pickled: Path, marker: Path) -> None:
    torch.load(pickled, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *(("model", name) for name in (OPTIMIZER_FILE, random_state_file(0), MODEL_FILE, AVERAGE_FILE)),
        ("adapter", WEIGHTS_FILES["adapter"]),
    ],
)
def test_not_in_a_checkpoint_even_if_its_hash_is_in_the_manifest(
    tmp_path: Path, pickled: Path, marker: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint_files.save_file

    def evil(tensors: dict[str, torch.Tensor], path: Path, **more: Any) -> None:
        if path.name.startswith(name):  # an adapter is renamed when it is complete
            shutil.copyfile(pickled, path)
        else:
            original(tensors, path, **more)

    monkeypatch.setattr(checkpoint_files, "save_file", evil)
    monkeypatch.setattr(tensor_files, "save_file", evil)
    folder = manager(tmp_path / "run", form=form).save(contents(1))
    assert folder is not None
    with pytest.raises(ValueError, match="cannot be read"):
        manager(tmp_path / "run", form=form).load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("audio_codec", load_codec),
        ("text_encoder", load_text_encoder),
        ("voice_encoder", load_voice_encoder),
        (".", SongGenForConditionalGeneration.from_pretrained),
    ],
)
def test_not_as_the_weights_of_a_network(
    world: Path, tmp_path: Path, pickled: Path, marker: Path, part: str, load: Callable[[str], object], name: str
) -> None:
    shutil.copytree(world / "model", tmp_path / "model")
    folder = tmp_path / "model" / part
    load(str(folder))
    (folder / "model.safetensors").unlink()
    shutil.copyfile(pickled, folder / name)
    with pytest.raises(ValueError, match="safetensors"):
        load(str(folder))
    assert not marker.exists()


def test_a_pickle_that_is_allowed_may_hold_tensors_and_nothing_else(
    world: Path, tmp_path: Path, pickled: Path, marker: Path
) -> None:
    folder = shutil.copytree(world / "model" / "voice_encoder", tmp_path / "voice")
    (folder / "model.safetensors").unlink()
    shutil.copyfile(pickled, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="(?i)weights"):
        load_voice_encoder({"path": str(folder), "allow_pickle_weights": True})
    assert not marker.exists()


def test_not_as_a_shard_of_a_data_set(world: Path, tmp_path: Path, pickled: Path, marker: Path) -> None:
    folder = shutil.copytree(world / "data", tmp_path / "data")
    (shard,) = (folder / "train").glob("*.arrow")
    shutil.copyfile(pickled, shard)
    with pytest.raises(ValueError, match=shard.name):
        SongDataset.open(folder, "train")
    assert not marker.exists()


def test_not_by_a_training_run(world: Path, tmp_path: Path, pickled: Path, marker: Path) -> None:
    model = shutil.copytree(world / "model", tmp_path / "model")
    shutil.copyfile(pickled, model / "model.safetensors")
    config = write_config(world, output_dir=str(tmp_path / "run"), model_name_or_path=str(model))
    printed = fork_run(config, tmp_path / "log").finish(EXIT_ERROR)
    assert "model.safetensors" in printed and "Traceback" not in printed and not marker.exists()
