import json
import multiprocessing
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS
from preprocess_fakes import FakeLyricsTokenizer, fake_encoders, options_for, run, write_corpus

from songgen.data.manifests.clip import ClipRow, Rejection
from songgen.lyrics import train_lyrics_tokenizer
from songgen.tokenize import chunks, settings
from songgen.tokenize.encoders import load_encoders
from songgen.tokenize.statistics import ChunkStatistics, EnergyStatistics
from songgen.tokenize.text import EncodedText, encode_text, knows_language
from songgen.tokenize.work_list import MIN_CHUNK_ROWS, Chunk, chunk_size, read_chunk, write_plan
from songgen.tokenize.workspace import lock_workspace, require_free_output

OPTIONS = options_for("m.jsonl", Path("out"), max_text_length=20, max_lyrics_tokens=12, max_caption_tokens=3)


def text_of(caption: str = "pop song", lyrics: str = "la", language: str = "english") -> EncodedText | Rejection:
    return encode_text(ClipRow("r", caption, lyrics, language, {}, "m", 1), fake_encoders(), OPTIONS, 1.0)


def test_texts_are_composed_and_tokenized() -> None:
    text = text_of(" cafe\u0301 song ", "o\u0308\n")
    assert isinstance(text, EncodedText)
    assert (text.caption, text.lyrics, text.language) == ("café song", "ö", "en")
    assert text.lyrics_ids == [261, ord("ö"), 0] and text.caption_ids == [4, 4, 1]


def test_further_descriptions_are_tokenized_each_once() -> None:
    variants = {
        "the caption itself": " pop song",
        "composed": "cafe\u0301",
        "again": "café",
        "too long": "x" * 21,
        "too many tokens": "a b c",
        "not storable": "a\0b",
        "no text": None,
    }
    row = ClipRow("r", "pop song", "la", "english", {}, "m", 1, extra={"variants": variants})
    text = encode_text(row, fake_encoders(), OPTIONS, 1.0)
    assert isinstance(text, EncodedText)
    assert text.variant_ids == ([4, 1],)
    assert text_of().variant_ids == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"caption": ""}, "missing_caption"),
        ({"caption": " \n"}, "missing_caption"),
        ({"caption": "x" * 21}, "caption_too_long"),
        ({"lyrics": "x" * 100_000}, "lyrics_too_long"),
        ({"lyrics": "x" * 11}, "lyrics_too_many_tokens"),
        ({"caption": "a b c"}, "caption_too_many_tokens"),
        ({"lyrics": "a\0b"}, "bad_text"),
        ({"caption": "half \ud83d"}, "bad_text"),
        ({"language": "klingon"}, "unknown_language"),
    ],
)
def test_texts_that_are_left_out(changes: dict[str, str], code: str) -> None:
    text = text_of(**changes)
    assert isinstance(text, Rejection) and text.code == code


def test_a_language_that_the_vocabulary_lacks_leaves_out_the_row_alone() -> None:
    class English(FakeLyricsTokenizer):
        def encode_lyrics(self, text: str, language: str) -> list[int]:
            if language != "en":
                raise ValueError(f"this lyrics vocabulary has no [{language}]")
            return super().encode_lyrics(text, language)

    english = fake_encoders(lyrics=English())
    text = encode_text(ClipRow("r", "pop song", "la", "german", {}, "m", 1), english, OPTIONS, 1.0)
    assert isinstance(text, Rejection) and text.code == "unknown_language" and "has no [de]" in text.reason
    assert [knows_language(name, english) for name in ("german", "english", "en-US", "sv")] == [
        False,
        True,
        True,
        False,
    ]


def test_a_package_that_is_not_installed_leaves_out_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = train_lyrics_tokenizer([("la la", "en")], 600, languages=["en", "zh"])
    encoders = fake_encoders(lyrics=vocabulary)
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    for words_are_needed in (
        lambda: knows_language("chinese", encoders),
        lambda: encode_text(ClipRow("r", "pop song", "你好", "zh", {}, "m", 1), encoders, OPTIONS, 1.0),
    ):
        with pytest.raises(ValueError, match="Chinese lyrics need the package pypinyin"):
            words_are_needed()


@pytest.mark.parametrize("lyrics", ["", "  \n ", "שלום", "🎵 la"])
def test_texts_that_stay(lyrics: str) -> None:
    assert isinstance(text_of(lyrics=lyrics), EncodedText)


def test_exactly_at_the_limit_stays() -> None:
    assert isinstance(text_of(caption="x" * 20, lyrics="x" * 10), EncodedText)


@pytest.mark.parametrize(
    ("rows", "limit", "size"), [(1, 500, 8), (512, 500, 8), (513, 500, 16), (10**6, 500, 500), (10**6, 3, 3)]
)
def test_chunks_depend_on_the_number_of_rows_alone(rows: int, limit: int, size: int) -> None:
    assert chunk_size(rows, limit) == size


def test_plan_holds_every_row_once(tmp_path: Path) -> None:
    options = options_for(write_corpus(tmp_path / "corpus", 2 * MIN_CHUNK_ROWS + 1), tmp_path / "out")
    plan = write_plan(options)
    found = [read_chunk(options.work_folder, plan, chunk)[1] for chunk in plan.chunks()]
    assert [len(rows) for rows in found] == [plan.rows_of(chunk) for chunk in plan.chunks()] == [8, 8, 1]
    assert [row.id for rows in found for row in rows] == [f"clip{index:03d}" for index in range(17)]


def test_key_follows_rows_files_and_settings(tmp_path: Path) -> None:
    options = options_for(write_corpus(tmp_path / "corpus", 2), tmp_path / "out")
    plan = write_plan(options)
    content, rows = read_chunk(options.work_folder, plan, Chunk("train", 0))
    key = chunks.chunk_key("s", "train", content, rows)
    assert chunks.chunk_key("s", "train", content, rows) == key
    assert chunks.chunk_key("t", "train", content, rows) != key
    assert chunks.chunk_key("s", "eval", content, rows) != key
    assert chunks.chunk_key("s", "train", content + b"x", rows) != key
    os.utime(tmp_path / "corpus" / "acc001.wav", (1, 1))
    assert chunks.chunk_key("s", "train", content, rows) != key


def test_settings_follow_everything_that_decides_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_for(write_corpus(tmp_path / "corpus", 2), tmp_path / "out")
    info, encoders = run(options), fake_encoders()
    known = {settings.settings_fingerprint(options, info, encoders)}
    for change in (
        {"max_seconds": 4.0},
        {"min_seconds": 0.1},
        {"max_text_length": 5},
        {"voice_min_energy": 1.0},
    ):
        known.add(settings.settings_fingerprint(replace(options, **change), info, encoders))
    for change in ({"lyrics_tokenizer_fingerprint": "other"}, {"voice_sample_rate": 16000}):
        known.add(settings.settings_fingerprint(options, replace(info, **change), encoders))
    assert len(known) == 7
    for harmless in ({"batch_size": 1}, {"num_workers": 4}, {"max_bad_fraction": 0.9}):
        known.add(settings.settings_fingerprint(replace(options, **harmless), info, encoders))
    assert len(known) == 7


def test_statistics_add_up() -> None:
    parts = []
    for seconds in (1.5, 4.2, 400.0):
        part = ChunkStatistics(rejected={"silent": 1}, energies={"mix": EnergyStatistics()})
        part.add_length(seconds, 10)
        part.energies["mix"].add(100 * seconds, 200)
        parts.append(ChunkStatistics.from_dict(json.loads(json.dumps(part.to_dict()))))
    total = ChunkStatistics()
    for part in parts:
        total.merge(part)
    assert (total.rows, total.frames, total.rejected) == (3, 30, {"silent": 3})
    assert total.lengths == {"1": 1, "4": 1, "300": 1} and total.seconds == pytest.approx(405.7)
    summary = total.energies["mix"].summary()
    assert (summary["min"], summary["max"], summary["below_voice_min_energy"]) == (150.0, 40000.0, 1)


def test_unknown_pieces_are_counted(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 2)
    manifest.write_text(manifest.read_text().replace("la la", "La LA"))
    run(options_for(manifest, tmp_path / "songs"))
    content = json.loads((tmp_path / "songs" / "report.json").read_text())["splits"]["train"]
    assert (content["unknown_lyric_pieces"], content["lyric_pieces"]) == (6, 18)
    assert FakeLyricsTokenizer().encode_lyrics("La", "en") == [261, 1, ord("a"), 0]
    assert "unknown lyric pieces: 6 of 18" in (tmp_path / "songs" / "report.txt").read_text()


def test_one_run_at_a_time_has_a_work_folder_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    """Whoever has the dead process's number now: the system says that nobody holds the lock."""
    (tmp_path / "lock.json").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid()}))

    def try_too() -> None:
        with pytest.raises(ValueError, match=f"in use by process {os.getppid()} on .*remove"):
            lock_workspace(tmp_path).__enter__()

    with lock_workspace(tmp_path):
        other = multiprocessing.get_context("fork").Process(target=try_too)
        other.start()
        other.join(SAFETY_SECONDS)
        assert other.exitcode == 0
    assert not (tmp_path / "lock.json").exists()


def test_a_kill_between_two_renames_is_mended(tmp_path: Path) -> None:
    run(options_for(write_corpus(tmp_path / "corpus", 2), tmp_path / "songs"))
    (tmp_path / "songs").rename(tmp_path / ".songs.replaced")
    require_free_output(tmp_path / "songs")
    assert (tmp_path / "songs" / "dataset.json").is_file()


def test_what_the_model_lacks_is_named(tmp_path: Path) -> None:
    options = options_for("m.jsonl", tmp_path / "out", model_name_or_path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="model_name_or_path: there is no folder"):
        load_encoders(options, "cpu")
    with pytest.raises(ValueError, match="name audio_codec, lyrics_tokenizer, description_tokenizer_name"):
        load_encoders(replace(options, model_name_or_path=""), "cpu")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "songgen"}))
    with pytest.raises(ValueError, match="name lyrics_tokenizer in the configuration: the model"):
        load_encoders(replace(options, model_name_or_path=str(tmp_path)), "cpu")
