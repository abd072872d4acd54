"""`songgen train` and `songgen tokenize` in several processes: they launch them, and end as the run ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from launching import ROOT, finish, make_world, wait_for_steps, write_config
from limits import SAFETY_SECONDS
from preprocess_fakes import write_corpus
from training_fakes import tiny_codec

from songgen.conditioning import train_caption_tokenizer
from songgen.exit_codes import EXIT_BAD_DATA, EXIT_DONE
from songgen.runtime.status import read_run_status


def start(*words: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a command from a folder, as on a machine without GPUs: nothing in the environment says so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    return subprocess.Popen(
        [sys.executable, "-m", "songgen.cli.main", *words],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.faults
def test_training_stops_at_a_signal_saves_and_ends_with_0(tmp_path: Path) -> None:
    """`accelerate launch` ends with 1 then. The command itself gets the signal, as from a batch system or Ctrl-C."""
    world = make_world(tmp_path)
    run = tmp_path / "run"
    config = write_config(
        world, output_dir=str(run), num_train_epochs=2000, do_eval=False, save_steps=None, dataloader_num_workers=1
    )
    command = ["train", config.name, "--num_processes", "2"]
    process = start(*command, folder=tmp_path)
    wait_for_steps(process, run)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    printed = finish(process, EXIT_DONE)
    assert not psutil.wait_procs(family, timeout=SAFETY_SECONDS)[1]
    status = read_run_status(run)
    assert status is not None and status.status == "stopped", printed
    assert "1 clips x 2 accumulated x 2 processes" in printed
    assert (run / f"checkpoint-{status.step}").is_dir()


@pytest.mark.faults
def test_tokenization_in_two_processes_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 6)
    (tmp_path / "corpus" / "mix001.wav").write_bytes(b"no audio")
    tiny_codec().save(tmp_path / "codec")
    make_world(tmp_path)
    train_caption_tokenizer(["calm", "loud"], 300, tmp_path / "captions")
    values = {
        "preprocessing_only": True,
        "audio_codec": {"type": "spectral", "path": "codec"},
        "lyrics_tokenizer": "model",
        "description_tokenizer_name": "captions",
        "train_dataset_name": str(manifest),
        "target_audio_column_name": "audio_abspath",
        "min_duration_in_seconds": 0.1,
        "save_codec_steps": 2,
        "save_to_disk": "songs",
    }
    (tmp_path / "data.json").write_text(json.dumps(values))
    printed = finish(start("tokenize", "data.json", "--num_processes", "2", folder=tmp_path), EXIT_BAD_DATA)
    assert "1 of 6 rows are damaged" in printed
