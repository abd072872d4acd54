"""A run, a data set and a model that the doctor finds fine, each in a copy that a test may damage."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import preprocess_fakes
import pytest
from accelerate.state import AcceleratorState
from launching import write_config
from training_fakes import write_dataset, write_model_folder

from songgen.conditioning.caption_tokenizer import caption_tokenizer_fingerprint, train_caption_tokenizer
from songgen.tasks import MIXED
from songgen.train.launch import run_training


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight steps with two checkpoints, its model, and a preprocessed data set."""
    folder = tmp_path_factory.mktemp("doctor")
    write_model_folder(folder / "model")
    captions = [f"a song, number {index}, slow and warm" for index in range(40)]
    tokenizer = train_caption_tokenizer(captions, 300, folder / "model" / "caption_tokenizer")
    fingerprint = caption_tokenizer_fingerprint(tokenizer)
    write_dataset(folder / "data", folder / "model", 7, 3, caption_tokenizer_fingerprint=fingerprint)
    config = write_config(
        folder, output_dir=str(folder / "run"), num_train_epochs=2, save_steps=3, save_total_limit=2, ema_decay=0.9
    )
    AcceleratorState._reset_state(True)
    assert run_training([str(config)], MIXED) == 0
    manifest = preprocess_fakes.write_corpus(folder / "corpus", 9)
    rows = preprocess_fakes.read_manifest(manifest)
    rows[1]["audio_file_name"] = "absent.wav"
    rows[2]["caption"] = ""
    preprocess_fakes.write_manifest(manifest, rows)
    preprocess_fakes.run(preprocess_fakes.options_for(manifest, folder / "songs", max_bad_fraction=0.5))
    return folder


@pytest.fixture
def copy_of(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the originals by its name."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(originals / name, tmp_path / name))

    return copy
