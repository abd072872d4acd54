"""The built demo corpus, on three songs: files, labels and what is really heard."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from build_songs import STAMP_NAME, build_songs

parselmouth = pytest.importorskip("parselmouth", reason="praat-parselmouth (demo extra) is not installed")
pytest.importorskip("espeakng_loader", reason="espeakng-loader (demo extra) is not installed")

KEYS = {
    "fname", "caption", "lyrics", "audio_file_name", "vocal_file_name", "acc_file_name", "vocal_energy", "acc_energy",
    "language", "duration",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "songs"
    assert build_songs(out, num_songs=3, seed=0)
    return out


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_rows(corpus: Path) -> list[dict[str, Any]]:
    return read_lines(corpus / "metadata.jsonl") + read_lines(corpus / "metadata_eval.jsonl")


def test_manifests_have_the_published_keys_and_relative_paths(corpus: Path) -> None:
    rows = all_rows(corpus)
    assert len(read_lines(corpus / "metadata.jsonl")) == 2 and len(rows) == 3
    for row in rows:
        assert set(row) == KEYS
        assert row["language"] == "english"
        for track in ("audio", "vocal", "acc"):
            assert (corpus / row[f"{track}_file_name"]).is_file()


def test_mix_is_the_sum_of_its_tracks_and_the_row_describes_them(corpus: Path) -> None:
    for row in all_rows(corpus):
        tracks = {}
        for track in ("audio", "vocal", "acc"):
            path = corpus / row[f"{track}_file_name"]
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            tracks[track] = soundfile.read(path, dtype="int16")[0].astype(np.int64)
        assert np.array_equal(tracks["audio"], tracks["vocal"] + tracks["acc"])
        assert np.abs(tracks["audio"]).max() < 32_767
        assert row["duration"] == len(tracks["audio"]) / 16_000
        for track in ("vocal", "acc"):
            assert row[f"{track}_energy"] == pytest.approx(np.sqrt(np.mean(tracks[track] ** 2)), abs=0.01)
            assert 1_000 < row[f"{track}_energy"] < 3_000


def test_most_voiced_frames_of_a_word_are_within_50_cents_of_its_note(corpus: Path) -> None:
    for song in read_lines(corpus / "truth.jsonl"):
        samples, rate = soundfile.read(corpus / "vocal" / f"{song['fname']}.wav")
        pitch = parselmouth.Sound(samples, rate).to_pitch(0.01, 75, 800)
        frequencies, times = pitch.selected_array["frequency"], pitch.xs()
        hits = []
        for word in song["words"]:
            inside = (times > word["start"] + 0.04) & (times < word["end"] - 0.04)
            voiced = frequencies[inside & (frequencies > 0)]
            assert len(voiced) > 0.3 * inside.sum(), f"{word} is hardly voiced"
            hits.append(np.abs(1200 * np.log2(voiced / word["frequency"])) < 50)
        assert np.concatenate(hits).mean() > 0.9


def test_words_sound_where_the_truth_says(corpus: Path) -> None:
    for song in read_lines(corpus / "truth.jsonl"):
        samples, rate = soundfile.read(corpus / "vocal" / f"{song['fname']}.wav")
        sung = np.zeros(len(samples), dtype=bool)
        for word in song["words"]:
            start, end = round(word["start"] * rate), round(word["end"] * rate) + 1
            sung[start:end] = True
            assert np.sqrt(np.mean(samples[start:end] ** 2)) > 0.02
        assert not samples[~sung].any()


def test_another_build_has_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    build_songs(tmp_path / "again", num_songs=3, seed=0)
    names = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.*"))
    assert names == sorted(str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*"))
    for name in names:
        assert (corpus / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_complete_folder_is_reused_and_a_damaged_one_built_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(corpus, out)
    assert not build_songs(out, num_songs=3, seed=0)
    victim = next((out / "audio").iterdir())
    victim.unlink()
    assert build_songs(out, num_songs=3, seed=0)
    assert victim.is_file()


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ValueError, match="did not write"):
        build_songs(tmp_path, num_songs=3, seed=0)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"
    assert not (tmp_path / STAMP_NAME).exists()
