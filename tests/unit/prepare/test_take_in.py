import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from prepare_songs import RATE, tone, write_song

from songgen.data.manifests.findings import ManifestError
from songgen.data.manifests.folders import song_folder
from songgen.data.sound.levels import energy
from songgen.prepare.config import config_of_values
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.record_files import read_records
from songgen.prepare.engine.step import StepOutput, WorkFolder
from songgen.prepare.inputs import MAX_ID_LENGTH, TakenIn, read_notices, read_songs, safe_name
from songgen.prepare.inputs import write_songs as write_list
from songgen.prepare.listening.source_quality import LOSSLESS
from songgen.prepare.review.corrections import Correction, corrected
from songgen.prepare.steps.alignment import AlignStep
from songgen.prepare.steps.filters import FilterOptions, find_refusals
from songgen.prepare.steps.segmentation import SegmentStep
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep
from songgen.prepare.steps.transcription import SECTION as TRANSCRIBE
from songgen.prepare.steps.transcription import TranscribeOptions
from songgen.prepare.steps.voice_activity import VoiceOptions, VoiceStep
from songgen.prepare.timing.clip_plan import SegmentOptions
from songgen.prepare.timing.lyrics_alignment import AlignOptions


def read(folder: Path, *inputs: Any, **settings: Any) -> TakenIn:
    return read_songs(
        config_of_values({"inputs": list(inputs) or [str(folder)], "output_dir": str(folder / "out"), **settings})
    )


def write_rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def take_in(*records: SongRecord, **options: Any) -> list[StepOutput]:
    return TakeInStep(TakeInOptions(**options)).run(records, WorkFolder(Path(".")))


def test_a_folder_of_songs(tmp_path: Path) -> None:
    write_song(tmp_path, "deep/er/One.mp3", prompt="pop,  sunny", lyrics="[Verse]\r\nla\r\n")
    write_song(tmp_path, "two.flac", prompt=None, lyrics=None)
    taken = read(tmp_path)
    two, one = taken.records
    assert one.id == one.song == "deep__er__One"
    assert (one.caption, one.tags) == ("pop, sunny", ("pop", "sunny"))
    assert (one.lyrics, one.lyrics_source, one.language) == ("[Verse]\nla", "given", "")
    assert one.audio == {"mix": str((tmp_path / "deep" / "er" / "One.mp3").resolve())}
    assert (two.caption, two.lyrics, two.lyrics_source, two.refusal) == ("", "", "", None)
    assert [notice.split(": ")[1] for notice in taken.notices] == [
        "is missing, so the song has no caption",
        "is missing, so the song has no lyrics",
    ]


def test_empty_texts_are_named(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=" ", lyrics="\n")
    taken = read(tmp_path)
    assert taken.records[0].refusal is None and taken.records[0].lyrics_source == ""
    assert taken.notices == [
        f"{tmp_path}/a_prompt.txt: is empty, so the song has no caption",
        f"{tmp_path}/a_lyrics.txt: is empty, so the song has no lyrics; write [instrumental] if nothing is sung",
    ]


def test_variants_beside_a_song_are_kept(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=None)
    variants = {"simplified": "pop", "descriptive": "a bright song", "analysis": {"tempo": "fast"}}
    (tmp_path / "a_prompt.json").write_text(json.dumps(variants))
    (record,) = read(tmp_path).records
    assert record.variants == {"simplified": "pop", "descriptive": "a bright song"}
    assert record.caption in record.variants.values() and record.analysis == {"tempo": "fast"}


def test_a_manifest_keeps_what_its_rows_know(tmp_path: Path) -> None:
    for name in ("a", "v"):
        write_song(tmp_path, f"{name}.wav", prompt=None, lyrics=None)
    row = {
        "fname": "x/1",
        "audio_file_name": "a.wav",
        "vocal_abspath": str(tmp_path / "v.wav"),
        "lyrics": "[Instrumental]",
        "language": "english",
        "tags": ["pop", "sunny"],
        "tempo": 124,
        "key": "A minor",
        "song": "x",
        "start": 12.5,
        "split": "eval",
        "artist": " Ann ",
        "provenance": {"tag": {"version": 1}},
    }
    (record,) = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", row)).records
    assert (record.id, record.song, record.start, record.split) == ("x__1", "x", 12.5, "eval")
    assert (record.lyrics, record.lyrics_source, record.language) == ("", "instrumental", "en")
    assert (record.tags, record.caption, record.tempo, record.key) == (("pop", "sunny"), "pop, sunny", 124.0, "A minor")
    assert set(record.audio) == {"mix", "vocal"} and set(record.provenance) == {"tag", "input"}
    assert record.singer == "Ann"


@pytest.mark.parametrize("said", [{"lyrics": "[Instrumental]"}, {"lyrics": "inst"}, {"instrumental": True}])
def test_a_song_that_is_said_to_be_instrumental_is_not_listened_to(tmp_path: Path, said: dict[str, Any]) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    row = {"id": "a", "audio": "a.wav", "caption": "piano", "language": "de", **said}
    (record,) = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", row)).records
    listening = [VoiceStep(VoiceOptions()), *TRANSCRIBE.make_steps(TranscribeOptions(agreement_model="second"))]
    assert not any(step.is_needed(record) for step in listening)
    (aligned,) = AlignStep(AlignOptions()).run([record], WorkFolder(tmp_path))
    record = record.changed(aligned.changes)
    assert (record.lyrics, record.lyrics_source, record.lines, record.voiced) == ("", "instrumental", (), ())
    assert find_refusals(record, FilterOptions(min_seconds=None, languages=("en",), min_vocal_energy=1000.0)) == []


def test_values_of_a_wrong_type_are_named_and_left_out(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    row = {"id": "a", "audio": "a.wav", "tempo": "fast", "tags": 3, "split": "dev", "variants": ["x"], "singer": 7}
    taken = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", row))
    (record,) = taken.records
    assert (record.tempo, record.tags, record.split, record.variants, record.singer) == (None, (), "", {}, "")
    assert sorted(notice.split()[1] for notice in taken.notices) == ["singer", "split", "tags", "tempo", "variants"]


def test_a_column_of_titles_does_not_keep_songs_from_being_cut(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    rows = [{"id": str(number), "audio": "a.wav", "song": "A Title"} for number in range(3)]
    rows[2]["start"] = 0
    taken = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", *rows))
    step = SegmentStep(SegmentOptions())
    assert [record.song for record in taken.records] == ["0", "1", "A_Title"]
    assert [step.is_needed(record) for record in taken.records] == [True, True, False]
    (notice,) = taken.notices
    assert "2 row(s) have the column song but not start" in notice


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a minor", "A minor"),
        ("b flat Major", "Bb major"),
        ("Am", "A minor"),
        ("F#min", "F# minor"),
        ("Ebmaj", "Eb major"),
        ("am", ""),
        ("sample-0001", ""),
        ("H minor", ""),
        ("", ""),
    ],
)
def test_only_keys_of_music_are_taken_for_one(tmp_path: Path, given: str, kept: str) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    taken = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", {"id": "a", "audio": "a.wav", "key": given}))
    assert taken.records[0].key == kept
    assert [f"key {given!r} is not valid, expected key" in notice for notice in taken.notices] == [True] * bool(
        given and not kept
    )


@pytest.mark.parametrize("name", ["a.json", "a_prompt.json"])
def test_of_a_json_file_beside_a_song_only_descriptions_describe_it(tmp_path: Path, name: str) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    found = {"title": "A Title", "artist": "Somebody", "audio_url": "https://example.org/a.mp3", "duration": "3:20"}
    (tmp_path / name).write_text(json.dumps(found))
    taken = read(tmp_path)
    assert (taken.records[0].caption, taken.records[0].variants) == ("", {})
    assert any(f"{name}: has none of caption, tags, simplified" in notice for notice in taken.notices)
    (tmp_path / name).write_text(json.dumps(found | {"descriptive": "a bright song"}))
    (record,) = read(tmp_path).records
    assert (record.caption, record.variants) == ("a bright song", {"descriptive": "a bright song"})
    (tmp_path / name).write_text(json.dumps(found | {"variants": {"mine": "a bright song"}}))
    assert read(tmp_path).records[0].variants == {"mine": "a bright song"}


def test_a_json_file_nested_without_end_costs_its_song(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=None)
    write_song(tmp_path, "b.wav", seed=1)
    (tmp_path / "a.json").write_text('{"analysis":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert [record.refusal and record.refusal.code for record in read(tmp_path).records] == ["unreadable_text", None]


@pytest.mark.parametrize(
    ("provenance", "kept"),
    [
        ({"tag": {"version": 1}, "review": {"version": 1, "parameters": {"lifted": {}}}}, {"tag"}),
        ({"review": 1, "tag": {"version": 1}}, {"tag"}),
        ({"tag": 1}, set()),
        ({"input": {"id": "of another input"}}, set()),
        ([1], set()),
    ],
)
def test_provenance_from_outside_is_checked_and_no_review_of_another_folder_counts(
    tmp_path: Path, provenance: Any, kept: set[str]
) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    row = {"id": "a", "audio": "a.wav", "provenance": provenance}
    (record,) = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", row)).records
    assert set(record.provenance) == {"input"} | kept and record.provenance["input"]["id"] == "a"
    assert corrected(record, Correction({"caption": "x"}, 1, 1, "", {})).provenance["review"]["version"] == 1


@pytest.mark.parametrize("column", ["analysis", "provenance", "variants", "tags", "tempo", "key", "song", "split"])
@pytest.mark.parametrize("value", ['{"x":' * 40 + "1" + "}" * 40, '{"x": {"y": "half \\ud800"}}'])
def test_values_that_cannot_be_stored_are_named_and_left_out(tmp_path: Path, column: str, value: str) -> None:
    write_song(tmp_path, "a.wav", prompt=None, lyrics=None)
    (tmp_path / "metadata.jsonl").write_text(f'{{"id": "a", "audio": "a.wav", "start": 1, "{column}": {value}}}\n')
    taken = read(tmp_path, str(tmp_path / "metadata.jsonl"))
    assert any(f"metadata.jsonl:1: {column} a dict is not valid, expected " in notice for notice in taken.notices)
    (record,) = taken.records
    write_list(tmp_path / "work" / "songs.jsonl", taken)
    assert read_records(tmp_path / "work" / "songs.jsonl") == [record] and record.refusal is None
    json.dumps(dataclasses.asdict(record), ensure_ascii=False).encode()


def test_a_name_that_looks_like_a_part_of_a_url_is_a_file(tmp_path: Path) -> None:
    write_song(tmp_path, "Foo :: Bar.wav")
    write_song(tmp_path, "a::b.wav", seed=1)
    assert [record.refusal for record in read(tmp_path).records] == [None, None]
    urls = ("http://h/a.wav", "zip://a.wav::b.zip", "simplecache::https://h/a.wav", "S3://h/a.wav")
    rows = [{"id": str(number), "audio": url} for number, url in enumerate(urls)]
    records = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", *rows)).records
    assert [record.refusal and record.refusal.code for record in records] == ["path_url"] * 4


def test_a_linked_folder_is_named(tmp_path: Path) -> None:
    write_song(tmp_path / "albums" / "real", "a.wav")
    write_song(tmp_path / "elsewhere", "b.wav")
    (tmp_path / "albums" / "linked").symlink_to(tmp_path / "elsewhere")
    taken = read(tmp_path, str(tmp_path / "albums"))
    assert [record.id for record in taken.records] == ["real__a"]
    (notice,) = taken.notices
    assert notice.startswith(f"{tmp_path}/albums/linked: is a link to a folder and is not followed")


def test_texts_without_a_song_are_held_against_so_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_song(tmp_path, "river.wav")
    write_song(tmp_path, "lake.wav")
    for number in range(5):
        (tmp_path / f"rivr{number}_prompt.txt").write_text("pop")
    (tmp_path / "River_prompt.txt").write_text("pop")
    monkeypatch.setattr(song_folder, "MAX_COMPARED_NAMES", 7)
    taken = read(tmp_path)
    assert len(taken.notices) == 6 and all("there is no audio file" in notice for notice in taken.notices)
    meant = [notice for notice in taken.notices if "did you mean river_prompt.txt?" in notice]
    assert [Path(notice.split(":")[0]).name for notice in meant] == [
        "River_prompt.txt",  # but for its case, the name is there: nothing has to be compared
        *(f"rivr{number}_prompt.txt" for number in range(3)),
    ]


def test_ids_of_several_inputs_do_not_collide(tmp_path: Path) -> None:
    for album in ("first", "second"):
        write_song(tmp_path / album, "01.wav")
    write_song(tmp_path / "second", "sub/x.wav")
    write_song(tmp_path / "second", "sub__x.wav")
    inputs = [str(tmp_path / "first"), {"name": str(tmp_path / "second"), "use_for": "eval"}]
    records = read(tmp_path, *inputs).records
    ids = [record.id for record in records]
    assert ids[0] == "01" and ids[1].startswith("01-") and len(set(ids)) == 4
    assert [record.id for record in read(tmp_path, *inputs).records] == ids
    assert [record.split for record in records] == ["", "eval", "eval", "eval"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a/b", "a__b"), ("../../etc/passwd", "etc__passwd"), ("Ä b", "Ä_b"), ("...", "song"), ("x|y\n", "x_y")],
)
def test_ids_are_names_of_files(given: str, expected: str) -> None:
    assert safe_name(given) == expected


def test_long_ids_are_cut_and_stay_apart() -> None:
    first, second = safe_name("ü" * 300 + "1"), safe_name("ü" * 300 + "2")
    assert first != second and len(first.encode()) <= MAX_ID_LENGTH + 9


def test_what_cannot_be_taken_in_is_refused_with_its_code(tmp_path: Path) -> None:
    write_song(tmp_path, "good.wav")
    write_song(tmp_path, "twice.wav")
    write_song(tmp_path, "twice.flac")
    (tmp_path / "other.m4a").write_bytes(b"x")
    records = read(tmp_path).records
    codes = {record.id: record.refusal.code if record.refusal else "" for record in records}
    assert codes == {"good": "", "twice": "ambiguous_audio", "other": "unsupported_format"}
    rows = [{"id": "gone", "audio": "gone.wav"}, {"id": "outside", "audio": "/etc/hostname"}]
    rows += [{"id": "odd", "audio": "good.wav", "lyrics": "\ud800"}]
    records = read(tmp_path, write_rows(tmp_path / "metadata.jsonl", *rows)).records
    assert [record.refusal and record.refusal.code for record in records] == [
        "file_missing",
        "path_outside_roots",
        "bad_text",
    ]


def test_problems_of_all_inputs_are_said_at_once(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", {"id": "a"})
    (tmp_path / "b.jsonl").write_text("{broken\n")
    with pytest.raises(ManifestError) as error:
        read(tmp_path, first, str(tmp_path / "b.jsonl"), str(tmp_path / "absent.jsonl"))
    for part in ("no row has the column 'audio'", "b.jsonl:1: not a line of JSON", "there is no manifest"):
        assert part in str(error.value)


def test_the_list_of_songs_is_kept_with_its_notices(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", prompt=None)
    taken = read(tmp_path)
    write_list(tmp_path / "work" / "songs.jsonl", taken)
    assert read_records(tmp_path / "work" / "songs.jsonl") == taken.records
    assert read_notices(tmp_path / "work" / "songs.jsonl").notices == taken.notices


def test_good_songs_are_measured(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", seconds=2.5)
    write_song(tmp_path, "a_vocal.ogg", seconds=2.5, seed=1, prompt=None, lyrics=None)
    (record,) = read(tmp_path).records
    (outcome,) = take_in(record)
    assert outcome.refusal is None and outcome.changes["duration"] == pytest.approx(2.5, abs=0.01)
    assert outcome.changes["energies"]["mix"] == pytest.approx(energy(tone(2.5)), rel=0.01)
    assert set(outcome.changes["energies"]) == {"mix", "vocal"}


def _damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_damaged_songs_are_refused_each_for_its_reason(tmp_path: Path) -> None:
    for name in ("cut.wav", "cut_flac.flac", "cut_mp3.mp3", "cut_ogg.ogg"):
        _damage(write_song(tmp_path, name))
    (tmp_path / "text.wav").write_text("no audio at all")
    write_song(tmp_path, "short.wav", seconds=0.5)
    write_song(tmp_path, "long.wav", seconds=6.0)
    write_song(tmp_path, "silent.wav", samples=np.zeros(3 * RATE, dtype=np.float32))
    soundfile.write(tmp_path / "nan.wav", np.full(3 * RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    write_song(tmp_path, "uneven.wav")
    write_song(tmp_path, "uneven_vocal.wav", seconds=2.0)
    records = read(tmp_path).records
    outcomes = take_in(*records, max_seconds=5.0)
    found = {
        record.id: outcome.refusal.code if outcome.refusal else ""
        for record, outcome in zip(records, outcomes, strict=True)
    }
    assert found.pop("cut_flac") in ("truncated_audio", "unreadable_audio")
    assert found == {
        "cut": "truncated_audio",
        "cut_mp3": "truncated_audio",
        "cut_ogg": "truncated_audio",
        "text": "unreadable_audio",
        "short": "too_short",
        "long": "too_long",
        "silent": "silent",
        "nan": "not_finite",
        "uneven": "track_lengths_differ",
    }


def test_lyrics_that_no_song_has_cost_their_song(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", lyrics="la " * 400)
    write_song(tmp_path, "b.wav", lyrics="la " * 5, seed=1)
    step = TakeInStep(TakeInOptions(max_lyrics_length=1000))
    records = read(tmp_path).records
    long, short = step.run(records, WorkFolder(tmp_path))
    assert long.refusal is not None and (long.refusal.code, long.refusal.limit) == ("lyrics_too_long", 1000)
    assert "take_in.max_lyrics_length" in long.refusal.reason and short.refusal is None
    # Corrected lyrics that keep to the limit do not decode the song again.
    assert step.inputs(records[1]) == step.inputs(dataclasses.replace(records[1], lyrics="la"))
    assert step.inputs(records[0]) != step.inputs(dataclasses.replace(records[0], lyrics="la"))


def test_limits_are_named_by_their_keys(tmp_path: Path) -> None:
    write_song(tmp_path, "a.wav", seconds=3.0)
    (record,) = read(tmp_path).records
    for options, key in (({"max_seconds": 2.0}, "take_in.max_seconds"), ({"min_seconds": 4.0}, "take_in.min_seconds")):
        (outcome,) = take_in(record, **options)
        assert outcome.refusal is not None and key in outcome.refusal.reason


def test_a_file_that_is_gone_since_the_inputs_were_read_is_refused(tmp_path: Path) -> None:
    path = write_song(tmp_path, "a.wav")
    (record,) = read(tmp_path).records
    path.unlink()
    (outcome,) = take_in(record)
    assert outcome.refusal is not None and outcome.refusal.code == "unreadable_audio"


def test_a_song_is_measured_at_its_own_rate_and_as_mono(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(4.0), tone(4.0)], axis=1), 44_100)
    (outcome,) = take_in(*read(tmp_path).records)
    assert outcome.changes["duration"] == pytest.approx(4.0 * RATE / 44_100, abs=1e-4)
    assert outcome.changes["energies"]["mix"] == pytest.approx(energy(tone(4.0)), rel=1e-3)


def test_flaws_are_measures_and_refused_songs_keep_their_length(tmp_path: Path) -> None:
    samples = tone(3.0)
    soundfile.write(tmp_path / "dead.wav", np.stack([samples, 0 * samples], axis=1) + 0.05, RATE)
    soundfile.write(tmp_path / "scale.wav", 32768 * samples, RATE, subtype="FLOAT")
    records = [SongRecord(name, name, "songs", 1, {"mix": str(tmp_path / f"{name}.wav")}) for name in ("dead", "scale")]
    dead, scale = take_in(*records)
    assert dead.changes["measures"] == {"dc_offset": pytest.approx(0.05, abs=0.01), LOSSLESS: 1.0}
    assert scale.refusal is not None and scale.refusal.code == "out_of_scale"
    assert scale.changes == {"duration": pytest.approx(3.0)}
    (long,) = take_in(records[0], max_seconds=2.0)
    assert long.refusal is not None and long.refusal.code == "too_long" and long.changes["duration"] == 3.0
    damaged = bytes(range(256)) * 9
    (tmp_path / "scale.wav").write_bytes(damaged)
    (unreadable,) = take_in(records[1])
    assert unreadable.refusal is not None and str(tmp_path) not in unreadable.refusal.reason
