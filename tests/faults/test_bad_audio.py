"""Cases 24, 25, 27 and 30: audio files that are damaged, odd, or made to exhaust a machine."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import soundfile
from intact_data import open_intact
from limits import SAFETY_SECONDS
from preprocess_fakes import RATE, options_for, read_manifest, run, tone, write_corpus, write_manifest
from single_clips import OPTIONS, code_of, read, row_of

from songgen.data.audio import AudioOptions, AudioRejected, check_header
from songgen.data.clip_audio import ClipAudio, read_clip
from songgen.data.dataset import SongDataset
from songgen.data.manifests.clip import ClipRow, Rejection, TrackPath
from songgen.data.reading import AudioReaders, ReadingLimits, serve
from songgen.exit_codes import EXIT_BAD_DATA, EXIT_DONE
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep
from songgen.runtime.files import file_sha256
from songgen.tokenize import TokenizeOptions
from songgen.tokenize.launch import run_tokenization

NUM_CLIPS = 20


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The manifest of twenty good rows."""
    return write_corpus(tmp_path / "corpus", NUM_CLIPS)


def rejections(folder: Path) -> list[dict[str, object]]:
    return read_manifest(folder / "rejected.jsonl")


def text_renamed(folder: Path) -> str:
    (folder / "bad.wav").write_text("these are words, not sounds\n" * 20)
    return "bad.wav"


def short_header(folder: Path) -> str:
    (folder / "bad.wav").write_bytes((folder / "mix000.wav").read_bytes()[:30])
    return "bad.wav"


def cut_flac(folder: Path) -> str:
    soundfile.write(folder / "whole.flac", tone(0.6) + 0.05 * np.random.default_rng(0).standard_normal(4800), RATE)
    content = (folder / "whole.flac").read_bytes()
    (folder / "bad.flac").write_bytes(content[: len(content) // 2])
    return "bad.flac"


@pytest.mark.case(24)
@pytest.mark.parametrize("damage", [text_renamed, short_header, cut_flac])
def test_one_unreadable_file_costs_its_row_and_nothing_else(
    corpus: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    rows = read_manifest(corpus)
    rows[6] = {**rows[6], "audio_file_name": damage(corpus.parent), "vocal_file_name": None, "acc_file_name": None}
    write_manifest(corpus, rows)
    run(options_for(corpus, tmp_path / "songs"))
    songs = open_intact(tmp_path / "songs", "train")
    assert [songs.row(index).id for index in range(len(songs))] == [row["fname"] for row in rows if row != rows[6]]
    (rejected,) = rejections(tmp_path / "songs")
    assert (rejected["id"], rejected["line"], rejected["file"]) == ("clip006", 7, str(corpus))
    assert rejected["path"] == rows[6]["audio_file_name"]
    assert rejected["code"] == ("truncated_audio" if damage is cut_flac else "unreadable_audio") and rejected["reason"]


@pytest.mark.case(24)
@pytest.mark.parametrize(("num_bad", "code"), [(2, EXIT_DONE), (3, EXIT_BAD_DATA)])
def test_the_exit_code_says_when_too_many_rows_are_damaged(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_bad: int,
    code: int,
) -> None:
    """`max_bad_fraction` is 0.1: two of twenty rows are still allowed."""
    for index in range(num_bad):
        (corpus.parent / f"mix{index:03d}.wav").write_text("no audio")
    config = {"preprocessing_only": True, "audio_codec": "any/codec", "train_dataset_name": str(corpus)}
    (tmp_path / "config.json").write_text(json.dumps({**config, "save_to_disk": str(tmp_path / "songs")}))

    def run_with_small_codec(options: TokenizeOptions) -> None:
        columns = options_for(corpus, tmp_path).manifests.columns
        run(replace(options, manifests=replace(options.manifests, columns=columns)))

    monkeypatch.setattr("songgen.tokenize.launch.tokenize_data", run_with_small_codec)
    assert run_tokenization([str(tmp_path / "config.json")]) == code
    assert (tmp_path / "songs").exists() == (code == EXIT_DONE)
    if code == EXIT_BAD_DATA:
        assert "3 of 20 rows are damaged (unreadable_audio)" in capsys.readouterr().err
        assert len(rejections(tmp_path / "songs.work")) == num_bad


@pytest.mark.case(25)
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_file_that_lost_its_end_is_rejected(tmp_path: Path, suffix: str, share: float) -> None:
    """Decoders give what is left of a WAV, MP3 or OGG file without an error."""
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    soundfile.write(whole, tone(2.0, 44100) + 0.05 * np.random.default_rng(0).standard_normal(88200), 44100)
    assert isinstance(read(whole), ClipAudio)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    assert code_of(cut) == "truncated_audio"


@pytest.mark.case(27)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampled_to_mono_of_the_exact_length(tmp_path: Path, rate: int, channels: int) -> None:
    samples = tone(1.237, rate)
    stereo = np.stack([samples * 1.5, samples * 0.5], axis=1)[:, :channels]
    soundfile.write(tmp_path / "a.wav", stereo if channels == 2 else samples, rate, subtype="FLOAT")
    result = read(tmp_path / "a.wav")
    assert isinstance(result, ClipAudio)
    mix = result.tracks["mix"]
    assert mix.dtype == np.float32 and abs(len(mix) - 1.237 * 16000) <= 1
    assert result.duration == len(mix) / 16000
    wanted = tone(1.237, 16000)[: len(mix)]
    inner = slice(400, len(wanted) - 400)
    assert np.abs(mix[: len(wanted)][inner] - wanted[inner]).max() < 0.01
    assert result.energies["mix"] == pytest.approx(np.sqrt(np.mean(wanted**2)) * 32768, rel=0.01)


def write_odd_files(folder: Path) -> dict[str, str]:
    """Files that are no usable songs -> the code each must get."""
    not_finite = tone(0.5, 16000)
    not_finite[4000] = np.nan
    for name, samples, rate in (
        ("one_hertz", tone(0.5, 16000), 1),
        ("nine_channels", np.zeros((8000, 9), np.float32), 16000),
        ("no_frames", np.zeros(0, np.float32), 16000),
        ("tenth_of_a_second", tone(0.1, 16000), 16000),
        ("nan", not_finite, 16000),
        ("infinity", np.where(np.isnan(not_finite), np.inf, not_finite), 16000),
        ("silence", np.zeros(8000, np.float32), 16000),
        ("long", tone(4.0, 16000), 16000),
    ):
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    return {
        "one_hertz": "bad_sample_rate",
        "nine_channels": "too_many_channels",
        "no_frames": "empty",
        "tenth_of_a_second": "too_short",
        "nan": "not_finite",
        "infinity": "not_finite",
        "silence": "silent",
        "long": "too_long",
    }


@pytest.mark.case(27)
def test_odd_files_have_codes_of_their_own_and_the_report_counts_them(tmp_path: Path) -> None:
    expected = write_odd_files(tmp_path)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(1.0), tone(1.0)], axis=1), RATE)
    soundfile.write(tmp_path / "clipped.wav", np.clip(tone(0.5, level=3.0), -1, 1), RATE, subtype="FLOAT")
    names = [*expected, "stereo", "clipped"]
    rows = [{"id": name, "caption": "c", "lyrics": "", "audio_file_name": f"{name}.wav"} for name in names]
    write_manifest(tmp_path / "m.jsonl", rows)
    limits = {"min_seconds": 0.2, "max_seconds": 3.0, "max_bad_fraction": 1.0}
    run(options_for(tmp_path / "m.jsonl", tmp_path / "songs", **limits))
    assert {row["id"]: row["code"] for row in rejections(tmp_path / "songs")} == expected
    report = json.loads((tmp_path / "songs" / "report.json").read_text())["splits"]["train"]
    assert report["rejected"] == {code: list(expected.values()).count(code) for code in expected.values()}
    assert report["rows"] == 2 and report["clipped"] == {"mix": 1}
    assert report["damaged_rows"] == len(expected) - 2, "what a limit leaves out is not damaged"


@pytest.mark.case(27)
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
def test_long_clips_are_cropped_where_that_is_asked_for_and_counted(tmp_path: Path, suffix: str) -> None:
    for name, seconds in (("long", 4.0), ("short", 1.0)):
        soundfile.write(tmp_path / f"{name}{suffix}", tone(seconds), RATE)
    soundfile.write(tmp_path / "vocal.wav", tone(4.05), RATE)
    rows = [
        {"id": "long", "caption": "c", "lyrics": "", "audio": f"long{suffix}", "vocal": "vocal.wav"},
        {"id": "short", "caption": "c", "lyrics": "", "audio": f"short{suffix}"},
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    options = options_for(tmp_path / "m.jsonl", tmp_path / "songs", max_seconds=3.0)
    run(options)
    assert [row["code"] for row in rejections(tmp_path / "songs")] == ["too_long"]
    run(replace(options, crop_long=True))
    songs = SongDataset.open(tmp_path / "songs", "train")
    assert [songs.row(index).duration for index in range(2)] == [3.0, pytest.approx(1.0, abs=0.06)]
    assert songs.row(0).num_frames == 300 and len(songs.row(0).voice_samples) == 3 * 12000
    report = json.loads((tmp_path / "songs" / "report.json").read_text())["splits"]["train"]
    assert report["cropped_to_the_longest_allowed"] == 1 and report["rejected"] == {}
    assert "cropped to the longest allowed: 1 clips" in (tmp_path / "songs" / "report.txt").read_text()


@pytest.mark.case(27)
def test_tracks_cut_to_the_shortest_are_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mix.wav", tone(1.0), RATE)
    soundfile.write(tmp_path / "vocal.wav", tone(0.95), RATE)
    row = {"id": "a", "caption": "c", "lyrics": "", "audio": "mix.wav", "vocal": "vocal.wav"}
    write_manifest(tmp_path / "m.jsonl", [row, {**row, "id": "b", "vocal": "mix.wav"}])
    run(options_for(tmp_path / "m.jsonl", tmp_path / "songs"))
    report = json.loads((tmp_path / "songs" / "report.json").read_text())["splits"]["train"]
    assert report["rows"] == 2 and report["cut_to_the_shortest_track"] == 1


HOURS_OF_SILENCE = 4
LIMITED_MEMORY = 2 << 30


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hours of silence in a few megabytes; decoded, 2.5 GB."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.flac"
    block = np.zeros((1 << 20, 2), np.int16)
    with soundfile.SoundFile(path, "w", 22050, 2, format="FLAC") as file:
        for _ in range(HOURS_OF_SILENCE * 3600 * 22050 // len(block)):
            file.write(block)
    assert path.stat().st_size < 16 << 20
    return path


@pytest.fixture
def readers() -> Iterator[AudioReaders]:
    """Reading processes as preprocessing starts them."""
    with AudioReaders(OPTIONS, ReadingLimits(seconds=60, memory_bytes=LIMITED_MEMORY), 1) as started:
        yield started


@pytest.mark.case(30)
def test_hours_of_silence_are_refused_under_a_memory_limit_and_never_decoded(
    bomb: Path, readers: AudioReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(file: soundfile.SoundFile, *arguments: object, **options: object) -> None:
        raise AssertionError(f"{file.name} is decoded")

    result = readers.read(row_of(mix=bomb))
    assert isinstance(result, Rejection) and result.code == "too_long"
    monkeypatch.setattr(soundfile.SoundFile, "read", forbidden)
    assert code_of(bomb) == "too_long"


@pytest.mark.case(30)
def test_of_hours_of_silence_only_the_beginning_is_decoded(bomb: Path) -> None:
    crop = replace(OPTIONS, crop_long=True, silence_energy=0.0)
    with AudioReaders(crop, ReadingLimits(seconds=60, memory_bytes=LIMITED_MEMORY), 1) as readers:
        result = readers.read(row_of(mix=bomb))
    assert isinstance(result, ClipAudio) and result.duration == 3.0
    assert result.cropped_seconds == pytest.approx(HOURS_OF_SILENCE * 3600 - 3, abs=60)


@pytest.mark.case(30)
def test_the_caps_hold_for_any_rate_and_number_of_channels(tmp_path: Path) -> None:
    """A header of one hour is enough: what it promises is never decoded."""
    for channels, rate in ((1, 384_000), (8, 384_000), (8, 4_000)):
        path = tmp_path / "promise.wav"
        soundfile.write(path, np.zeros((16, channels), np.int16), rate)
        content = bytearray(path.read_bytes())
        size = min(3600 * rate * channels * 2, 0xFFFFFF00)
        place = content.index(b"data") + 4
        content[place : place + 4] = size.to_bytes(4, "little")
        path.write_bytes(content)
        os.truncate(path, min(place + 4 + size, OPTIONS.max_file_bytes))  # a hole: nothing is stored
        with pytest.raises(AudioRejected) as rejected:
            check_header(path, OPTIONS)
        assert rejected.value.code in ("too_long", "truncated_audio")


@pytest.mark.case(30)
def test_a_song_that_takes_too_long_or_too_much_memory_costs_its_row(tmp_path: Path, bomb: Path) -> None:
    """Allowed lengths of hours meet the limits of the reading process, which is then started anew."""
    soundfile.write(tmp_path / "good.wav", tone(0.5, 16000), 16000)
    hours = replace(OPTIONS, max_seconds=HOURS_OF_SILENCE * 3600)
    for limits, code in (
        (ReadingLimits(seconds=1.0, memory_bytes=LIMITED_MEMORY * 8), "audio_timeout"),
        (ReadingLimits(seconds=120, memory_bytes=LIMITED_MEMORY // 4), "audio_crash"),
    ):
        with AudioReaders(hours, limits, 1) as readers:
            result = readers.read(row_of(mix=bomb))
            assert isinstance(result, Rejection) and result.code == code, result
            assert result.path == "bomb.flac" and result.reason
            assert isinstance(readers.read(row_of(mix=tmp_path / "good.wav")), ClipAudio)


@pytest.mark.case(30)
@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"audio_timeout_seconds": 1.0, "audio_memory_gib": 16.0}, "audio_timeout"),
        ({"audio_memory_gib": 0.5}, "audio_crash"),
    ],
)
def test_a_song_that_hangs_or_fills_a_decoder_costs_itself_alone(
    tmp_path: Path, bomb: Path, limit: dict[str, float], code: str
) -> None:
    """The door of `songgen prepare`: the songs before and behind it are taken in as ever."""
    soundfile.write(tmp_path / "good.wav", tone(1.5, 16000), 16000)
    paths = [tmp_path / "good.wav", bomb, tmp_path / "good.wav"]
    records = [SongRecord(f"{n}", f"{n}", "songs", n, {"mix": str(path)}) for n, path in enumerate(paths)]
    step = TakeInStep(TakeInOptions(max_seconds=HOURS_OF_SILENCE * 3600, **limit))
    outcomes = step.run(records, WorkFolder(tmp_path))
    assert [outcome.refusal and outcome.refusal.code for outcome in outcomes] == [None, code, None]
    assert outcomes[1].refusal is not None and outcomes[1].refusal.value == "bomb.flac"
    assert outcomes[0].changes == outcomes[2].changes and outcomes[0].changes["duration"] == pytest.approx(1.5)


@pytest.mark.case(30)
def test_a_decoder_that_crashes_costs_its_row(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", tone(0.5, 16000), 16000)
    with AudioReaders(OPTIONS, ReadingLimits(), 1) as readers:
        row = row_of(mix=tmp_path / "good.wav")
        assert isinstance(readers.read(row), ClipAudio)
        process = readers._readers[0]._process
        assert process is not None
        process.kill()
        process.wait(SAFETY_SECONDS)
        result = readers.read(row)
        assert isinstance(result, Rejection) and result.code == "audio_crash" and "SIGKILL" in result.reason
        assert isinstance(readers.read(row), ClipAudio)


@pytest.mark.parametrize("asks", [False, True])
def test_a_reading_process_whose_other_end_has_died_ends_without_a_word(asks: bool) -> None:
    """Its parent may be killed while it starts, or while it reads a song."""
    ours, theirs = Pipe()

    def read(row: ClipRow, options: AudioOptions) -> Rejection:
        ours.close()
        return row.reject("silent", "")

    if asks:
        ours.send_bytes(json.dumps(["read", ClipRow("a", "", "", "", {}, "", 1).to_json()]).encode())
    else:
        ours.close()
    serve(theirs, AudioOptions(RATE), read)


@pytest.mark.case(24)
def test_a_file_with_another_hash_than_its_row_states_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, tone(1.0), RATE)
    tracks = {"mix": TrackPath("song.wav", str(path))}
    row = ClipRow("a", "", "", "", tracks, "list.jsonl", 1, hashes={"mix": file_sha256(path)})
    options = AudioOptions(sample_rate=RATE, min_seconds=0.5)
    assert isinstance(read_clip(row, options), ClipAudio)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    found = read_clip(row, options)
    assert isinstance(found, Rejection) and (found.code, found.path) == ("changed_audio", "song.wav")


@pytest.mark.case(30)
def test_what_a_reading_process_hands_over_is_what_is_read_here(tmp_path: Path, readers: AudioReaders) -> None:
    for name, seconds, rate in (("mix", 1.0, 16000), ("vocal", 1.05, 44100)):
        soundfile.write(tmp_path / f"{name}.wav", np.clip(tone(seconds, rate, level=3.0), -1, 1), rate)
    row = row_of(mix=tmp_path / "mix.wav", vocal=tmp_path / "vocal.wav")
    ours, theirs = read_clip(row, OPTIONS), readers.read(row)
    assert isinstance(ours, ClipAudio) and isinstance(theirs, ClipAudio)
    assert ours.voice is not None and theirs.voice is not None
    np.testing.assert_array_equal(ours.voice, theirs.voice)
    assert theirs.voice.dtype == np.int16 and list(ours.tracks) == list(theirs.tracks)
    for name, track in ours.tracks.items():
        np.testing.assert_array_equal(track, theirs.tracks[name])
    assert replace(ours, tracks={}, voice=None) == replace(theirs, tracks={}, voice=None)
    assert readers.seconds(row) == 1.0
    shutil.rmtree(tmp_path)
    assert readers.seconds(row) == 0.0
