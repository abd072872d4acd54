"""The launched script with a real codec and real tokenizers, all small and fitted here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import SAFETY_SECONDS
from preprocess_fakes import read_manifest, tone, write_corpus

from songgen.codecs import load_codec
from songgen.codecs.spectral import SpectralSettings
from songgen.codecs.spectral_fit import FitOptions, fit_spectral_codec
from songgen.conditioning import train_caption_tokenizer
from songgen.config import load_run_config
from songgen.data.dataset import SongDataset
from songgen.data.schema import DatasetInfo
from songgen.lyrics import train_lyrics_tokenizer
from songgen.tokenize import options_of, tokenize_data

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 18


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a codec, tokenizers, and the JSON that names them."""
    folder = tmp_path_factory.mktemp("workplace")
    manifest = write_corpus(folder / "corpus", NUM_CLIPS)
    rows = read_manifest(manifest)
    train_lyrics_tokenizer([(row["lyrics"], "en") for row in rows], 7000).save_pretrained(folder / "lyrics")
    train_caption_tokenizer([row["caption"] for row in rows], 300, folder / "captions")
    settings = SpectralSettings(num_codebooks=2, codebook_size=16)
    waveforms = [torch.from_numpy(tone(0.6, 16000, seed=seed)) for seed in range(4)]
    fit_spectral_codec(waveforms, settings, FitOptions(iterations=2)).save(folder / "codec")
    config: dict[str, Any] = {
        "preprocessing_only": True,
        "audio_codec": {"type": "spectral", "path": str(folder / "codec")},
        "lyrics_tokenizer": str(folder / "lyrics"),
        "description_tokenizer_name": str(folder / "captions"),
        "train_dataset_name": str(manifest),
        "eval_dataset_name": str(manifest),
        "eval_split_name": "train",
        "max_eval_samples": 4,
        "id_column_name": "fname",
        "target_audio_column_name": "audio_abspath",
        "ref_audio_column_name": ["vocal_abspath", "acc_abspath", "drum_abspath"],
        "min_duration_in_seconds": 0.31,
        "preprocessing_num_workers": 2,
        "save_to_disk": str(folder / "songs"),
    }
    (folder / "data.json").write_text(json.dumps(config))
    return folder


def launch(folder: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    script = [str(ROOT / "training" / "preprocess_data.py"), str(folder / "data.json"), *arguments]
    accelerate = ["-m", "accelerate.commands.launch", "--config_file"]
    two = [*accelerate, str(ROOT / "helpers" / "accelerate_configs" / "cpu_2_processes.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *(two if processes == 2 else []), *script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS, cwd=folder)


@pytest.fixture(scope="module")
def by_two_processes(workplace: Path) -> subprocess.CompletedProcess[str]:
    """A launch of two processes, which wrote `songs` into the workplace."""
    result = launch(workplace, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def test_two_processes_with_a_real_codec(workplace: Path, by_two_processes: subprocess.CompletedProcess[str]) -> None:
    result = by_two_processes
    assert "no row has the column 'drum_abspath'" in result.stderr and "vocal_file_name" in result.stderr
    assert "train: 16 of 18 rows" in result.stdout
    assert DatasetInfo.read(workplace / "songs").tracks == ("mix", "vocal", "acc", "drum")


@pytest.mark.usefixtures("by_two_processes")
def test_one_process_gives_the_same_and_brings_its_codec(workplace: Path, tmp_path: Path) -> None:
    arguments = ["--save_to_disk", str(tmp_path / "songs"), "--audio_encoder_per_device_batch_size", "1"]
    tokenize_data(options_of(load_run_config([str(workplace / "data.json"), *arguments], description="")))
    folder = tmp_path / "moved"
    (tmp_path / "songs").rename(folder)
    for split, count in (("train", 16), ("eval", 3)):
        two, one = (SongDataset.open(place, split) for place in (workplace / "songs", folder))
        assert len(one) == len(two) == count
        for index in range(count):
            assert one.row(index).id == two.row(index).id
            assert (one.row(index).targets["mix"] == two.row(index).targets["mix"]).all()
    info = DatasetInfo.read(folder)
    assert info.codec_spec == {"type": "spectral", "path": "audio_codec"}
    assert load_codec(info.codec_spec, base_folder=folder).fingerprint == info.codec_fingerprint


@pytest.mark.faults
def test_exit_code_of_damaged_data(workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(workplace / "corpus", tmp_path / "corpus")
    for index in range(3):
        (tmp_path / "corpus" / f"mix{index:03d}.wav").write_bytes(b"no audio")
    manifest, output = str(tmp_path / "corpus" / "metadata.jsonl"), str(tmp_path / "songs")
    result = launch(workplace, "--train_dataset_name", manifest, "--save_to_disk", output)
    assert result.returncode == 3 and "unreadable_audio" in result.stderr
    assert not Path(output).exists()


def test_a_wrong_launch_writes_nothing(workplace: Path, tmp_path: Path) -> None:
    """Two processes that do not see each other would write the same files."""
    script = [str(ROOT / "training" / "preprocess_data.py"), str(workplace / "data.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "false"}
    for name in ("RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, *script, "--save_to_disk", str(tmp_path / "songs")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS)
    assert result.returncode != 0 and "so each would work alone" in result.stderr
    assert not list(tmp_path.iterdir())
