"""`songgen generate` with a flow-matching model: the same command line, and options of its own."""

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from tiny_flow import SAMPLE_RATE, write_tiny_pipeline

from songgen.cli.main import main
from songgen.cli.models.generate import FORMATS, _check_form, write_songs
from songgen.families.flow.model import FlowModel
from songgen.families.flow.songs.audio_files import read_source
from songgen.families.use.generating import SongPiece

WORDS = ("--caption", "pop", "--lyrics", "la la", "--steps", "2", "--seed", "3")
SHORT = (*WORDS, "--seconds", "1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("flow") / "base")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song of 2 s in mono, at another rate than the model's."""
    path = tmp_path_factory.mktemp("audio") / "recording.flac"
    soundfile.write(path, 0.3 * np.sin(np.arange(16_000) ** 1.3 / 90), 8000)
    return path


def generate(model: Path, out: Path, *words: str) -> int:
    return main(["generate", "--model", str(model), "--out", str(out), "--device", "cpu", *words])


def song(model: Path, out: Path, *words: str) -> NDArray[np.float64]:
    """Samples x channels of a generated song."""
    assert generate(model, out, *words) == 0
    samples: NDArray[np.float64] = soundfile.read(out)[0]
    return samples


def test_songs_are_written_in_stereo_at_the_level_of_the_pipeline(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = song(base, tmp_path / "alone.wav", *SHORT)
    assert capsys.readouterr().out.split() == [str(tmp_path / "alone.wav")]
    assert alone.shape == (SAMPLE_RATE, 2) and abs(alone).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    assert not np.array_equal(alone[:, 0], alone[:, 1])
    assert generate(base, tmp_path / "two.wav", *SHORT, "--num_songs", "2", "--guidance", "7", "--shift", "3") == 0
    first, second = (soundfile.read(tmp_path / f"two-{number}.wav")[0] for number in (1, 2))
    assert np.array_equal(first, alone) and not np.array_equal(second, alone)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_takes_stereo(tmp_path: Path, ending: str) -> None:
    _check_form(tmp_path / f"song{ending}", 48_000, 2)
    tone = np.sin(np.arange(96_000, dtype=np.float32) / 10) / 2
    (path,) = write_songs([SongPiece(0, {"": np.stack([tone, tone / 2], 1)}, 48_000)], tmp_path / f"song{ending}", 1)
    samples, rate = soundfile.read(path)
    peaks = abs(samples).max(axis=0)
    assert samples.shape[1] == 2 and len(samples) / rate == pytest.approx(2, abs=0.1) and peaks[0] > 1.5 * peaks[1]


def test_a_section_of_a_file_is_written_again_and_the_rest_is_the_file(
    base: Path, recording: Path, tmp_path: Path
) -> None:
    source = read_source(recording, SAMPLE_RATE).T.numpy()
    words = (*WORDS, "--source", str(recording), "--repaint", "0.5:1.25")
    repainted = song(base, tmp_path / "repainted.wav", *words)
    begin, end = int(0.5 * SAMPLE_RATE), int(1.25 * SAMPLE_RATE)
    step = 1.01 / 32768
    assert repainted.shape == source.shape
    assert abs(repainted[:begin] - source[:begin]).max() < step and abs(repainted[end:] - source[end:]).max() < step
    assert abs(repainted[begin:end] - source[begin:end]).max() > 0.01
    cover = song(base, tmp_path / "cover.wav", *WORDS, "--source", str(recording), "--cover")
    weak = song(base, tmp_path / "weak.wav", *WORDS, "--source", str(recording), "--cover", "0.2")
    assert cover.shape == weak.shape == source.shape and not np.array_equal(cover, weak)


def test_a_voice_is_a_timbre_reference_and_that_is_said(
    base: Path, recording: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = song(base, tmp_path / "plain.wav", *SHORT)
    with caplog.at_level(logging.WARNING):
        voice = song(base, tmp_path / "voice.wav", *SHORT, "--voice", str(recording))
    assert "--voice is a timbre reference for this model" in caplog.text
    reference = song(base, tmp_path / "reference.wav", *SHORT, "--reference", str(recording))
    assert np.array_equal(voice, reference) and not np.array_equal(voice, plain)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ((), ("--caption, --lyrics or --lyrics_file",)),
        ((*SHORT, "--language", "klingon"), ("--language 'klingon'", "sv (swedish)")),
        (
            ("--lyrics", "la", "--temperature", "2", "--stream"),
            (
                "--temperature is for models of codec tokens",
                "--stream is for models of codec tokens (others write all parts of a song at the same time)",
                "whose own options are --steps, --shift, --bpm",
            ),
        ),
        (("--lyrics", "la", "--seconds", "1000", "--steps", "0"), ("seconds must be", "steps must be")),
        (("--lyrics", "la", "--source", "/nowhere.wav", "--cover"), ("the source /nowhere.wav cannot be used",)),
        (("--lyrics", "la", "--reference", "/nowhere.wav"), ("the reference /nowhere.wav cannot be used",)),
        (("--lyrics", "la", "--reference", "a", "--voice", "b"), ("--voice and --reference are the same",)),
        (("--lyrics", "la", "--repaint", "1:2"), ("repaint is about a source",)),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    assert generate(base, tmp_path / "song.wav", *words) == 2
    printed = capsys.readouterr().err
    assert not [message for message in messages if message not in printed]
    assert "computing in" not in printed and not list(tmp_path.iterdir())


def test_what_is_wrong_with_the_model_is_said_before_it_is_opened(
    base: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turbo = write_tiny_pipeline(tmp_path / "turbo", is_turbo=True)
    assert generate(turbo, tmp_path / "song.wav", *SHORT, "--guidance", "3") == 2
    assert "guidance is distilled into the weights of turbo models" in capsys.readouterr().err
    late = ("--source", str(recording), "--repaint", "2.5:3")
    assert generate(base, tmp_path / "song.wav", *WORDS, *late) == 2
    assert "repaint 2.5:3: the source is only 2.00 s long" in capsys.readouterr().err
    index = turbo / "model_index.json"
    index.write_text(index.read_text().replace('"audio_tokenizer"', '"another_tokenizer"'))
    assert generate(turbo, tmp_path / "song.wav", *WORDS, "--source", str(recording), "--cover") == 2
    printed = capsys.readouterr().err
    assert "lacks the audio tokenizer" in printed and "computing in" not in printed
    shutil.rmtree(turbo / "vae")
    assert generate(turbo, tmp_path / "song.wav", *SHORT) == 2
    assert "the folder vae is missing" in capsys.readouterr().err


def test_a_section_of_another_form_is_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate(base, Path("song.wav"), *WORDS, "--repaint", "1-2")
    assert "'1-2' is not START:END in seconds, such as 12.5:20" in capsys.readouterr().err


def test_adapters_of_peft_change_the_song_and_strength_0_does_not(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their names are relative to the transformer."""
    adapter = get_peft_model(
        FlowModel.open(base).transformer, LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(str(tmp_path / "adapter"))
    plain = song(base, tmp_path / "plain.wav", *SHORT)
    adapted = song(base, tmp_path / "adapted.wav", *SHORT, "--adapter", str(tmp_path / "adapter"))
    assert abs(adapted - plain).max() > 1e-3
    weak = song(base, tmp_path / "weak.wav", *SHORT, "--adapter", f"{tmp_path / 'adapter'}:0.1")
    assert 0 < abs(weak - plain).max() and not np.array_equal(weak, adapted)
    off = song(base, tmp_path / "off.wav", *SHORT, "--adapter", f"{tmp_path / 'adapter'}:0")
    assert np.array_equal(off, plain)
    assert np.array_equal(song(tmp_path / "adapter", tmp_path / "named.wav", *SHORT), adapted)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"to_v"', '"to_k"'))
    assert generate(base, tmp_path / "wrong.wav", *SHORT, "--adapter", str(tmp_path / "adapter")) == 2
    assert "it targets modules that it has no weights for: layers.0." in capsys.readouterr().err


def test_help_names_the_options_of_each_family_without_opening_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(sys.modules, "songgen.families.flow.family", raising=False)
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out.partition("options:")[2]
    tokens, flow = shown.index("only for models of codec tokens:"), shown.index("only for flow-matching models:")
    assert shown.index("the song:") < tokens < shown.index("--temperature") < flow < shown.index("--repaint START:END")
    assert "--cover [STRENGTH]" in shown and "songgen.families.flow.family" not in sys.modules


def test_bfloat16_is_generated_on_the_cpu(base: Path, tmp_path: Path) -> None:
    whole = song(base, tmp_path / "whole.wav", *SHORT)
    half = song(base, tmp_path / "half.wav", *SHORT, "--dtype", "bf16")
    assert half.shape == whole.shape and torch.isfinite(torch.from_numpy(half)).all()
