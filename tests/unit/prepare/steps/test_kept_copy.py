"""Of several copies of a recording the best one is kept, and the refusal of the others says why."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.listening.source_quality import bandwidth, is_lossless, leading_silence
from songgen.prepare.steps.duplicates import DuplicateOptions, DuplicateStep, FingerprintStep
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep

RATE = 44_100


def music(seconds: float = 6.0) -> np.ndarray:
    """Chords with overtones and hiss up to the highest frequency."""
    draw = np.random.default_rng(3)
    times = np.arange(round(seconds * RATE)) / RATE
    samples = draw.normal(0, 0.02, size=len(times))
    for base in (48, 64):
        notes = base + draw.integers(0, 14, size=int(seconds / 0.2) + 1)
        phase = 2 * np.pi * np.cumsum(440 * 2 ** ((notes[(times / 0.2).astype(int)] - 69) / 12)) / RATE
        samples += 0.12 * np.sin(phase) + 0.06 * np.sin(2 * phase) + 0.04 * np.sin(5 * phase)
    return samples.astype(np.float32)


def original(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE)


def at_64_kbit(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.9)


def at_best_rate(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.0)


def quieter(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples * 10 ** (-8 / 20), RATE)


def overdriven(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, np.clip(samples * 6, -1, 1), RATE)


def late(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, np.pad(samples, (RATE, 0)), RATE)


def shorter(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples[2 * RATE :], RATE)


def made_of_mp3(path: Path, samples: np.ndarray) -> None:
    """A WAV of a poor MP3: lossless by its format alone."""
    poor = path.with_suffix(".mp3")
    at_64_kbit(poor, samples)
    soundfile.write(path, soundfile.read(poor)[0], RATE)


def resampled(path: Path, samples: np.ndarray) -> None:
    """CD quality against a copy at 16 kHz."""
    soundfile.write(path, soxr.resample(samples, RATE, 16_000), 16_000)


Make = Callable[[Path, np.ndarray], None]
COPIES: dict[str, tuple[str, Make, str, Make, str]] = {
    "a copy at -8 dB": ("wav", original, "wav", quieter, "8.0 dB louder"),
    "a FLAC and its MP3": ("flac", original, "mp3", at_64_kbit, "kHz instead of"),
    "a WAV and a very good MP3": ("wav", original, "mp3", at_best_rate, "a lossless source"),
    "a quiet WAV and a very good MP3": ("wav", quieter, "mp3", at_best_rate, "a lossless source"),
    "a good MP3 and a WAV made of a poor one": ("mp3", at_best_rate, "wav", made_of_mp3, "kHz instead of"),
    "another sample rate": ("flac", original, "wav", resampled, "kHz instead of"),
    "an overdriven copy": ("wav", original, "wav", overdriven, "less clipping"),
    "silence in front": ("wav", original, "wav", late, "less silence at its beginning"),
    "without its first seconds": ("wav", original, "wav", shorter, "6.0 s instead of 4.0"),
}  # fmt: skip


def prepared(folder: Path, name: str, suffix: str, make: Make) -> SongRecord:
    """The record of a file as the steps before the search of duplicates leave it."""
    path = folder / f"{name}.{suffix}"
    make(path, music())
    record = SongRecord(id=name, song=name, file="f", line=1, audio={"mix": str(path)})
    work = WorkFolder(folder)
    for step in (TakeInStep(TakeInOptions()), FingerprintStep(DuplicateOptions())):
        [outcome] = step.run([record], work)
        assert outcome.refusal is None, outcome.refusal
        record = record.changed(outcome.changes)
    return record


def left_out(records: list[SongRecord]) -> dict[str, str]:
    """Id of each refused record -> the reason."""
    outcomes = DuplicateStep(DuplicateOptions()).run_all(records, WorkFolder(Path()))
    return {record.id: outcome.refusal.reason for record, outcome in zip(records, outcomes, strict=True)
            if outcome.refusal is not None}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_better_copy_is_kept_whatever_its_name(tmp_path: Path, case: str, names: tuple[str, str]) -> None:
    suffix, make, other_suffix, make_other, reason = COPIES[case]
    good = prepared(tmp_path, names[0], suffix, make)
    poor = prepared(tmp_path, names[1], other_suffix, make_other)
    refused = left_out(sorted([good, poor], key=lambda record: record.id))
    assert refused.keys() == {poor.id}
    assert f"it sounds like {good.id}, which is kept" in refused[poor.id]
    assert reason in refused[poor.id]


def pair(tmp_path: Path, **of_the_poor_one: Any) -> list[SongRecord]:
    good, poor = prepared(tmp_path, "a", "wav", original), prepared(tmp_path, "b", "wav", quieter)
    return [good, dataclasses.replace(poor, **of_the_poor_one)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"provenance": {"review": {"parameters": {"verdict": "accepted"}}}}, "a person has accepted it"),
        ({"split": "eval"}, "it is held out for evaluation"),
        ({"lyrics": "words", "lyrics_source": "transcribed"}, "it has lyrics"),
    ],
)
def test_a_persons_choice_the_split_and_lyrics_count_more_than_the_sound(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    refused = left_out(pair(tmp_path, **values))
    assert refused.keys() == {"a"}
    assert reason in refused["a"]


def test_an_accepted_clip_counts_more_than_a_held_out_one(tmp_path: Path) -> None:
    good, poor = pair(tmp_path, provenance={"review": {"parameters": {"verdict": "accepted"}}})
    assert left_out([dataclasses.replace(good, split="eval"), poor]).keys() == {"a"}


def test_equal_copies_are_said_to_be_equal(tmp_path: Path) -> None:
    copies = [prepared(tmp_path, name, "wav", original) for name in ("a", "b")]
    assert "equally good" in left_out(copies)["b"]


@pytest.mark.parametrize("limit", [3_000, 8_000, 16_000])
def test_the_bandwidth_is_that_of_the_content(limit: int) -> None:
    spectrum = np.fft.rfft(music())
    spectrum[np.fft.rfftfreq(len(music()), 1 / RATE) > limit] = 0
    narrow = np.fft.irfft(spectrum)
    sixteen_bits = np.rint(narrow * 32768) / 32768
    for samples in (narrow, sixteen_bits, sixteen_bits / 4):
        assert bandwidth(samples, RATE) == pytest.approx(limit, abs=300)


def test_a_pilot_tone_is_not_bandwidth() -> None:
    times = np.arange(4 * RATE) / RATE
    tones = 0.3 * np.sin(2 * np.pi * 440 * times) + 0.02 * np.sin(2 * np.pi * 19_000 * times)
    assert bandwidth(tones, RATE) < 1000
    assert bandwidth(np.zeros(RATE), RATE) == 0


def test_silence_at_the_beginning_is_measured() -> None:
    assert leading_silence(np.pad(music(2.0), (RATE // 2, 0)), RATE) == pytest.approx(0.5, abs=0.011)
    assert leading_silence(np.zeros(RATE, dtype=np.float32), RATE) == 1.0


def test_the_encoding_counts_and_not_the_suffix(tmp_path: Path) -> None:
    samples = music(1.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE, format="WAV", subtype="PCM_24")
    soundfile.write(tmp_path / "b.wav", samples, RATE, format="WAV", subtype="ULAW")
    soundfile.write(tmp_path / "c.mp3", samples, RATE)
    (tmp_path / "c.mp3").rename(tmp_path / "c.wav")
    assert [is_lossless(tmp_path / f"{name}.wav") for name in "abcd"] == [True, False, False, None]
