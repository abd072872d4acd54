"""The scripts that make untrained models, as one would call them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS
from preprocess_fakes import read_manifest, write_corpus
from training_fakes import tiny_codec

from songgen.conditioning import train_caption_tokenizer
from songgen.lyrics import VoiceBpeTokenizer, train_lyrics_tokenizer
from songgen.models import SongGenForConditionalGeneration

SCRIPTS = Path(__file__).resolve().parents[2] / "helpers" / "model_init_scripts"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec and tokenizers, as `fit_spectral_codec.py` and `train_tokenizers.py` leave them."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_codec().save(folder / "codec")
    rows = read_manifest(write_corpus(folder / "corpus", 4))
    train_lyrics_tokenizer([(row["lyrics"], "en") for row in rows], 7000).save_pretrained(folder / "tokenizers")
    train_caption_tokenizer([row["caption"] for row in rows], 300, folder / "tokenizers" / "caption_tokenizer")
    return folder


def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parents[1])},
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
    )


def call_here(script: str, *arguments: str) -> int:
    """Run a script in this process, which has torch imported already; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.syspath_prepend(str(SCRIPTS))  # as python does for a script
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):  # python prints it at the end of a process
                print(end.code, file=sys.stderr)
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@pytest.mark.parametrize(
    ("script", "pattern"),
    [("init_model_mixed.py", "mixed_pro"), ("init_model_dual_track.py", "interleaving_A_V")],
)
def test_a_new_model_opens_wherever_its_folder_lies(script: str, pattern: str, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    given = ["--audio_model", str(parts / "codec"), "--tokenizers", str(parts / "tokenizers")]
    made = call(script, str(out), "--preset", "small", "--track_pattern", pattern, *given)
    assert made.returncode == 0, made.stderr
    summary = json.loads(made.stdout.split(": ", 1)[1])
    model = SongGenForConditionalGeneration.from_pretrained(out.rename(tmp_path / "moved"))
    assert model.layout.name == summary["track_pattern"] == pattern
    assert model.audio_codec.fingerprint == tiny_codec().fingerprint
    assert (tmp_path / "moved" / "lyrics_tokenizer.json").is_file()
    assert sum(entry.numel() for entry in model.parameters()) == summary["trained_parameters"]


def test_no_vocabulary_is_needed(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given = ["--preset", "small", "--track_pattern", "mixed_pro", "--audio_model", str(parts / "codec")]
    assert call_here("init_model_mixed.py", str(out), *given) == 0
    assert "general one of songgen" in capsys.readouterr().out
    tokenizer = VoiceBpeTokenizer.from_pretrained(out)
    assert tokenizer.unknown_pieces("öffne die Tür", "de") == [] and (out / "caption_tokenizer").is_dir()
    assert SongGenForConditionalGeneration.from_pretrained(out).config.lyrics_vocab_size >= len(tokenizer)


def test_the_seed_decides_the_weights(parts: Path, tmp_path: Path) -> None:
    given = ["--preset", "small", "--audio_model", str(parts / "codec"), "--tokenizers", str(parts / "tokenizers")]
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        assert call_here("init_model_mixed.py", str(tmp_path / name), *given, "--seed", seed) == 0
    one, same, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


def test_what_is_missing_is_said(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, tokenizers = str(tmp_path / "out"), ["--tokenizers", str(parts / "tokenizers")]
    nothing = ["--audio_model", str(tmp_path / "nothing")]
    assert call_here("init_model_mixed.py", out, "--preset", "small", *tokenizers, *nothing) == 1
    assert "nothing" in (said := capsys.readouterr().err) and "Traceback" not in said
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert call_here("init_model_mixed.py", out, "--track_pattern", "parallel_std") == 2
    assert "mixed_pro" in capsys.readouterr().err
