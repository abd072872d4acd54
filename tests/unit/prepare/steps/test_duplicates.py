"""Near-duplicates: copies are found in whatever form, other songs are not, and the right one is kept."""

import dataclasses
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.listening.fingerprint import SAMPLE_RATE, fingerprint, from_text, similarity, to_text
from songgen.prepare.steps import duplicates
from songgen.prepare.steps.duplicates import (
    DuplicateOptions,
    DuplicateStep,
    FingerprintStep,
    candidate_pairs,
    find_alike,
    find_duplicates,
    groups_of,
)

RATE = 16_000
Change = Callable[[np.ndarray, Path], tuple[np.ndarray, int]]


def melody(seed: int, seconds: float = 6.0) -> np.ndarray:
    """Notes drawn by chance, two voices, with a little noise, at `RATE`."""
    draw = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    samples = draw.normal(0, 0.003, size=len(times))
    for base in (48, 64):
        notes = base + draw.integers(0, 14, size=int(seconds / 0.2) + 1)
        frequencies = 440 * 2 ** ((notes[(times / 0.2).astype(int)] - 69) / 12)
        phase = 2 * np.pi * np.cumsum(frequencies) / RATE
        samples += 0.12 * np.sin(phase) + 0.06 * np.sin(2 * phase) + 0.04 * np.sin(5 * phase)
    return samples.astype(np.float32)


def heard(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    return fingerprint(soxr.resample(samples, rate, SAMPLE_RATE))


def record(name: str, samples: np.ndarray, rate: int = RATE, **values: Any) -> SongRecord:
    made = SongRecord(id=name, song=name, file="f", line=1, duration=len(samples) / rate)
    return dataclasses.replace(made, fingerprint=to_text(heard(samples, rate)), **values)


def coded(samples: np.ndarray, path: Path, rate: int = RATE) -> tuple[np.ndarray, int]:
    soundfile.write(path, samples, rate)
    return soundfile.read(path, dtype="float32")


CHANGES: dict[str, Change] = {
    "as MP3": lambda samples, folder: coded(samples, folder / "a.mp3"),
    "as OGG at 44.1 kHz": lambda samples, folder: coded(soxr.resample(samples, RATE, 44_100), folder / "a.ogg", 44_100),
    "6 dB quieter": lambda samples, folder: (samples / 2, RATE),
    "100 ms later": lambda samples, folder: (np.pad(samples, (RATE // 10, 0)), RATE),
    "between two frames": lambda samples, folder: (samples[RATE // 40 :], RATE),
    "2 s shorter": lambda samples, folder: (samples[2 * RATE :], RATE),
    "all at once": lambda samples, folder: coded(np.pad(samples[2 * RATE :], (1600, 0)) / 2, folder / "b.mp3"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found(tmp_path: Path, change: str) -> None:
    copies = [record("copy", *CHANGES[change](melody(3), tmp_path))]
    strangers = [record(f"other{seed}", melody(seed)) for seed in range(10, 14)]
    assert find_alike([record("song", melody(3)), *strangers, *copies], DuplicateOptions()).keys() == {(0, 5)}


def test_copies_of_sung_songs_are_found_and_songs_of_one_kind_are_not(
    tmp_path: Path, demo_songs: list[dict[str, Any]]
) -> None:
    originals, copies = [], []
    for song in demo_songs:
        samples, rate = read_audio(song["audio"])
        originals.append(record(song["fname"], samples, rate))
        changed, new_rate = coded(np.pad(samples[2 * rate :], (rate // 10, 0)) / 2, tmp_path / "a.mp3", rate)
        copies.append(record(f"{song['fname']}_again", changed, new_rate))
    found = find_alike([*originals, *copies], DuplicateOptions())
    assert found.keys() == {(index, index + len(originals)) for index in range(len(originals))}


def test_another_voice_over_the_same_accompaniment_is_another_song(demo_songs: list[dict[str, Any]]) -> None:
    found = []
    for song, other in itertools.pairwise(demo_songs):
        accompaniment, rate = read_audio(song["acc"])
        voice, _ = read_audio(other["vocal"])
        length = min(len(accompaniment), len(voice))
        mixes = [read_audio(song["audio"])[0], accompaniment[:length] + voice[:length]]
        found.append(find_alike([record(str(index), mix, rate) for index, mix in enumerate(mixes)], DuplicateOptions()))
    assert not any(found)


def test_silence_is_no_evidence() -> None:
    silence = np.zeros(4 * RATE, dtype=np.float32)
    assert not heard(silence).any()
    quiet_ends = [np.concatenate([melody(seed, 1.5), silence]) for seed in (1, 2)]
    assert (
        find_alike([record(str(index), samples) for index, samples in enumerate(quiet_ends)], DuplicateOptions()) == {}
    )
    assert len(heard(melody(1, 0.6))) == 0  # too short to judge


def test_similarity_counts_equal_bits_where_neither_is_silent() -> None:
    values = np.random.default_rng(0).integers(1, 1 << 32, size=400, dtype=np.uint32)
    assert similarity(values, values[30:], 30) == (1.0, 370)
    assert similarity(values[30:], values, -30) == (1.0, 370)
    assert similarity(values, values ^ np.uint32(0xFF), 0) == (0.5, 400)
    assert abs(similarity(values, values, 7)[0]) < 0.05
    halved = np.where(np.arange(400) < 200, 0, values).astype(np.uint32)
    assert similarity(values, halved, 0) == (1.0, 200)
    assert similarity(values, values, 400) == (0.0, 0)
    assert (from_text(to_text(values)) == values).all()


def test_the_index_names_the_distance_and_does_not_pair_strangers() -> None:
    draw = np.random.default_rng(1)
    prints = [draw.integers(1, 1 << 32, size=200, dtype=np.uint32) for _ in range(300)]
    prints[7] = np.concatenate([prints[250][40:], prints[7][:20]])
    candidates = candidate_pairs(prints)
    assert candidates.keys() == {(7, 250)} and -40 in candidates[7, 250]
    assert candidate_pairs([]) == {} and candidate_pairs([np.zeros(5, dtype=np.uint32)]) == {}


def test_of_very_many_copies_one_is_kept() -> None:
    copies = [record(f"copy{number:03d}", melody(5)) for number in range(80)]
    found = find_duplicates(copies, DuplicateOptions())
    assert len(found.left_out) == 79 and {kept for kept, _ in found.left_out.values()} == {0}


def test_of_a_chain_of_overlaps_the_ends_are_kept() -> None:
    samples = melody(6, 12.0)
    parts = [samples[start * RATE : (start + 6) * RATE] for start in (0, 3, 6)]
    chain = [record(f"part{index}", part, lyrics="la" * (index != 1)) for index, part in enumerate(parts)]
    found = find_duplicates(chain, DuplicateOptions(min_overlap=0.4))
    assert set(found.left_out) == {1}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"split": "eval", "duration": 3.0}, {"split": "train", "lyrics": "la"}),
        ({"lyrics": "la", "lyrics_source": "transcribed", "duration": 5.0}, {}),
        ({"lyrics": "la", "lyrics_source": "given"}, {"lyrics": "la", "lyrics_source": "transcribed", "duration": 7.0}),
        ({"duration": 6.5}, {"duration": 6.0}),
    ],
)
def test_the_better_copy_is_kept_and_named(better: dict[str, Any], worse: dict[str, Any]) -> None:
    pair = [record("a", melody(8), **worse), record("b", melody(8), **better)]
    left, kept = DuplicateStep(DuplicateOptions()).run_all(pair, WorkFolder(Path()))
    assert kept.refusal is None and left.refusal is not None
    assert (left.refusal.code, left.refusal.kept, left.refusal.value, left.refusal.limit) == (
        "duplicate",
        "b",
        1.0,
        0.65,
    )
    assert left.changes["group"] == kept.changes["group"] == "a"


def test_passages_of_one_song_count_unless_they_shall_not() -> None:
    clips = [dataclasses.replace(record(name, melody(9)), song="song") for name in ("a", "b")]
    assert len(find_alike(clips, DuplicateOptions())) == 1
    assert find_alike(clips, DuplicateOptions(within_songs=False)) == {}
    outcomes = DuplicateStep(DuplicateOptions()).run_all(clips, WorkFolder(Path()))
    assert not any("group" in outcome.changes for outcome in outcomes)


def test_equal_words_and_lengths_are_a_hint_but_no_proof() -> None:
    one, other = (record(str(seed), melody(seed), lyrics="La la  la") for seed in (1, 2))
    assert find_alike([one, other], DuplicateOptions()) == {}
    # With every eighth bit wrong no key is equal; only the words lead there.
    blurred = dataclasses.replace(one, id="c", fingerprint=to_text(from_text(one.fingerprint) ^ np.uint32(0x0F000000)))
    assert find_alike([dataclasses.replace(one, lyrics=""), blurred], DuplicateOptions()) == {}
    assert find_alike([one, blurred], DuplicateOptions()).keys() == {(0, 1)}


def test_a_word_that_many_clips_sing_takes_no_memory_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    clips = [
        SongRecord(id=str(number), song=str(number), file="f", line=1, duration=12.0, lyrics="hey",
                   fingerprint=to_text(draw.integers(1, 1 << 32, size=240, dtype=np.uint32)))
        for number in range(150)
    ]  # fmt: skip
    compared = []
    monkeypatch.setattr(duplicates, "compare", lambda *values: float(compared.append(len(values[2])) or 0))
    tracemalloc.start()
    try:
        assert find_alike(clips, DuplicateOptions()) == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert compared.count(479) > 4000
    assert peak < 30 << 20


def test_groups_hang_together() -> None:
    assert groups_of([("a", "b"), ("x", "y"), ("c", "d"), ("b", "d")]) == [["a", "b", "c", "d"], ["x", "y"]]


def test_listening_goes_by_the_sound_alone(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", melody(1), RATE)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    good, bad = (SongRecord(id=name, song=name, file="f", line=1, audio={"mix": f"{name}.wav"}) for name in ("a", "b"))
    heard_, refused = FingerprintStep(DuplicateOptions()).run([good, bad], WorkFolder(tmp_path))
    assert similarity(from_text(heard_.changes["fingerprint"]), heard(melody(1)), 0)[0] > 0.98
    assert refused.refusal is not None and refused.refusal.code == "unreadable_audio"


def test_values_that_are_no_shares_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"min_similarity.*min_overlap"):
        DuplicateOptions(min_similarity=0, min_overlap=1.5)
