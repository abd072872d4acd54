"""Corrections of a person: kept for good, found again by clips that were cut anew, applied where they belong."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from limits import SAFETY_SECONDS
from prepare_steps import make_record
from review_songs import apply_corrections, write_work_folder

from songgen.prepare.engine.record import LyricLine, Refusal, SongRecord
from songgen.prepare.engine.section import Phase
from songgen.prepare.review import corrections as review
from songgen.prepare.review import desk as review_desk
from songgen.prepare.review.corrections import (
    ACCEPTED,
    CORRECTIONS_FILE,
    REFUSED,
    REFUSED_CODE,
    REVIEW,
    REVIEW_CODES,
    Edit,
    EditLog,
    combine,
    match_edits,
    read_corrections,
    shown,
)
from songgen.prepare.review.desk import Clip, ReviewDesk
from songgen.prepare.sections import SECTIONS, is_over_songs

QUIET = Refusal("filter", "vocal_too_quiet", "too quiet", 12.0, 200.0)


def clip(start: float = 10.0, duration: float = 5.0, *, name: str = "river_001", **fields: Any) -> SongRecord:
    return replace(make_record(name, start=start, duration=duration, lyrics="old words", **fields), song="river")


def edit(folder: Path, record: SongRecord, **values: Any) -> int:
    """Write an edit of a record; return its number."""
    values.setdefault("before", {name: getattr(record, name, "") for name in values.get("changes", {})})
    return EditLog(folder / CORRECTIONS_FILE).append(record, lambda edits: values).number


def change(folder: Path, record: SongRecord, **changes: Any) -> int:
    return edit(folder, record, changes=changes)


def test_corrections_survive_a_rerun_of_every_step_before(tmp_path: Path) -> None:
    lines = [{"text": "new words", "start": 1.0, "end": 2.0, "section": "verse", "confidence": None}]
    change(tmp_path, clip(), lyrics="[verse]\nnew words", lines=lines, language="de")
    change(tmp_path, clip(), caption="rock", tags=["rock", "loud"])
    [found] = apply_corrections([clip(caption="pop", language="en")], tmp_path)
    assert (found.lyrics, found.lyrics_source, found.language) == ("[verse]\nnew words", REVIEW, "de")
    assert found.lines == (LyricLine("new words", 1.0, 2.0, "verse"),)
    assert (found.caption, found.tags) == ("rock", ("rock", "loud"))
    note = found.provenance[REVIEW]["parameters"]
    assert note["fields"] == ["caption", "language", "lines", "lyrics", "tags"] and note["time"].endswith("+00:00")


def test_later_edits_win_and_other_clips_stay_as_they_are(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="first")
    change(tmp_path, clip(), caption="second")
    other = clip(20.0, name="river_002")
    assert [record.caption for record in apply_corrections([clip(), other], tmp_path)] == ["second", ""]
    assert apply_corrections([other], tmp_path) == [other]


@pytest.mark.parametrize(("start", "duration", "is_found"), [(10.2, 4.9, True), (9.8, 5.4, True), (10.3, 5.0, False),
                                                            (10.0, 5.3, False)])  # fmt: skip
def test_a_clip_that_was_cut_anew_finds_its_corrections_by_its_place(
    tmp_path: Path, start: float, duration: float, is_found: bool
) -> None:
    change(tmp_path, clip(), caption="corrected")
    recut = clip(start, duration, name="river_007")
    [found] = apply_corrections([recut], tmp_path)
    assert (found.caption == "corrected") is is_found
    assert bool(read_corrections(tmp_path).orphans([recut])) is not is_found


def test_the_id_alone_does_not_make_a_clip_the_same(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="corrected")
    moved, of_another_song = clip(40.0), replace(clip(), song="lake")
    assert apply_corrections([moved, of_another_song], tmp_path) == [moved, of_another_song]
    [orphan] = read_corrections(tmp_path).orphans([moved, of_another_song])
    assert (orphan.song, orphan.start, orphan.end) == ("river", 10.0, 15.0)


def test_the_nearest_of_two_overlapping_clips_gets_the_correction(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="corrected")
    near, nearer = clip(10.2, name="a"), clip(10.1, name="b")
    assert [record.caption for record in apply_corrections([near, nearer], tmp_path)] == ["", "corrected"]


def test_times_of_lines_stay_where_they_are_in_the_song(tmp_path: Path) -> None:
    lines = [{"text": "a", "start": 0.1, "end": 2.0}, {"text": "b", "start": 2.0, "end": 5.0}]
    change(tmp_path, clip(), lyrics="a\nb", lines=lines)
    [found] = apply_corrections([clip(10.2, 4.7)], tmp_path)
    assert [(line.start, line.end) for line in found.lines] == [(0.0, 1.8), (1.8, 4.7)]


def test_empty_lyrics_of_a_person_mean_that_nobody_sings(tmp_path: Path) -> None:
    change(tmp_path, clip(), lyrics="", lines=[])
    assert apply_corrections([clip()], tmp_path)[0].lyrics_source == "instrumental"


def test_a_person_takes_a_clip_in_or_leaves_it_out(tmp_path: Path) -> None:
    quiet, fine = clip(refusal=QUIET), clip(20.0, name="river_002")
    change(tmp_path, quiet, verdict=ACCEPTED)
    change(tmp_path, fine, verdict=REFUSED, reason="coughing")
    taken_in, left_out = apply_corrections([quiet, fine], tmp_path)
    assert taken_in.refusal is None
    assert taken_in.provenance[REVIEW]["parameters"]["lifted"]["code"] == "vocal_too_quiet"
    assert left_out.refusal == Refusal(REVIEW, REFUSED_CODE, "coughing") and REFUSED_CODE in REVIEW_CODES


def test_what_a_step_has_left_out_keeps_its_reason_when_a_person_agrees(tmp_path: Path) -> None:
    change(tmp_path, clip(), verdict=REFUSED)
    assert apply_corrections([clip(refusal=QUIET)], tmp_path)[0].refusal == QUIET


@pytest.mark.parametrize("step", ["take_in", "transcribe_second", "segment"])
def test_a_song_that_never_became_a_clip_cannot_be_taken_in(tmp_path: Path, step: str) -> None:
    broken = clip(0.0, 60.0, refusal=Refusal(step, "unreadable_audio", "broken"))
    change(tmp_path, broken, verdict=ACCEPTED)
    assert apply_corrections([broken], tmp_path)[0].refusal == broken.refusal


def test_every_section_has_its_phase_and_its_place() -> None:
    phases = [section.phase for section in SECTIONS.values()]
    assert phases == sorted(phases, key=list(Phase).index) and phases.count(Phase.CUTTING) == 1
    assert not is_over_songs(REVIEW) and not is_over_songs("fingerprint")


def test_every_step_over_songs_is_known_as_one() -> None:
    for section in SECTIONS.values():
        is_early = section.phase in (Phase.SONGS, Phase.CUTTING)
        assert all(is_over_songs(step.name) is is_early for step in section.steps), section.name


def test_words_are_corrected_before_they_are_measured_and_the_rest_before_it_is_judged(tmp_path: Path) -> None:
    change(tmp_path, clip(), lyrics="new words", lines=[], caption="rock", verdict=REFUSED)
    corrections = read_corrections(tmp_path)
    assert corrections.apply([clip()], SECTIONS["align"].phase) == [clip()]
    [cut] = corrections.apply([clip()], SECTIONS["segment"].phase)
    assert (cut.lyrics, cut.caption, cut.refusal) == ("new words", "", None)
    for section in ("tag", "score"):
        [described] = corrections.apply([cut], SECTIONS[section].phase)
        assert described.caption == "rock" and described.refusal is not None


def test_an_accepted_clip_goes_on_after_every_section_that_leaves_it_out(tmp_path: Path) -> None:
    change(tmp_path, clip(), verdict=ACCEPTED)
    corrections = read_corrections(tmp_path)
    for section in ("agreement", "filter", "duplicates"):
        [record] = corrections.apply([clip(refusal=replace(QUIET, step=section))], SECTIONS[section].phase)
        assert record.refusal is None


def test_an_edit_that_was_taken_back_does_not_apply(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="first")
    second = change(tmp_path, clip(), caption="second", language="de")
    edit(tmp_path, clip(), reverts=second)
    [found] = apply_corrections([clip()], tmp_path)
    assert (found.caption, found.language) == ("first", "")
    assert not read_corrections(tmp_path).orphans([clip()])


def test_the_page_shows_what_is_taken_back_as_it_was_before_the_last_run(tmp_path: Path) -> None:
    """The last run has applied it; the next one will not."""
    quiet = clip(refusal=QUIET, caption="pop")
    number = edit(tmp_path, quiet, changes={"caption": "rock", "verdict": ACCEPTED}, before={"caption": "pop"})
    [of_last_run] = apply_corrections([quiet], tmp_path)
    assert (of_last_run.caption, of_last_run.refusal) == ("rock", None)
    edit(tmp_path, quiet, reverts=number)
    found, _ = match_edits([of_last_run], read_corrections(tmp_path).edits)
    seen = shown(of_last_run, combine(of_last_run, found[of_last_run.id]))
    assert (seen.caption, seen.refusal) == ("pop", QUIET)


def test_a_refusal_that_is_taken_back_lets_the_clip_in(tmp_path: Path) -> None:
    number = change(tmp_path, clip(), verdict=REFUSED)
    [of_last_run] = apply_corrections([clip()], tmp_path)
    edit(tmp_path, clip(), reverts=number)
    found, _ = match_edits([of_last_run], read_corrections(tmp_path).edits)
    assert shown(of_last_run, combine(of_last_run, found[of_last_run.id])).refusal is None


def test_a_line_that_a_kill_has_cut_off_is_no_edit_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="first")
    path = tmp_path / CORRECTIONS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    assert len(read_corrections(tmp_path).edits) == 1
    assert change(tmp_path, clip(), caption="second") == 2
    assert [edit.changes["caption"] for edit in read_corrections(tmp_path).edits] == ["first", "second"]


def test_a_line_that_is_no_edit_is_named(tmp_path: Path) -> None:
    change(tmp_path, clip(), caption="first")
    path = tmp_path / CORRECTIONS_FILE
    path.write_text(path.read_text() + '{"song": 1}\n')
    with pytest.raises(ValueError, match=r"corrections.jsonl:2: .*replace it with \{\}"):
        read_corrections(tmp_path)


def test_the_log_sees_what_other_processes_add(tmp_path: Path) -> None:
    log = EditLog(tmp_path / CORRECTIONS_FILE)
    assert log.read() == []
    change(tmp_path, clip(), caption="first")
    assert len(log.read()) == 1
    change(tmp_path, clip(), caption="second")
    assert [edit.number for edit in log.read()] == [1, 2]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom songgen.prepare.engine.record import SongRecord\n"
        "from songgen.prepare.review.corrections import EditLog\n"
        "record = SongRecord(id='a', song='a', file='f', line=1, duration=3.0)\n"
        "for number in range(25):\n"
        "    EditLog(Path(sys.argv[1])).append(record, lambda edits: {'changes': {'caption': str(len(edits))}})\n"
    )
    path = tmp_path / CORRECTIONS_FILE
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(2)]
    assert [writer.wait(SAFETY_SECONDS) for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["changes"]["caption"] for line in lines] == [str(number) for number in range(50)]


def test_a_click_looks_again_at_its_own_song_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = 40
    records = [
        replace(make_record(f"{song}_{part}", start=10.0 * part, duration=5.0, lyrics="la"), song=f"song{song}")
        for song in range(songs)
        for part in range(2)
    ]
    desk = ReviewDesk(write_work_folder(tmp_path, records))
    looked: list[str] = []
    parsed: list[int] = []
    build, parse = review_desk._clip, review.parse_edits

    def counted_clip(record: SongRecord, edits: Sequence[Edit]) -> Clip:
        looked.append(record.id)
        return build(record, edits)

    def counted_edits(content: bytes, path: Path, first: int = 1) -> list[Edit]:
        parsed.append(content.count(b"\n"))
        return parse(content, path, first)

    monkeypatch.setattr(review_desk, "_clip", counted_clip)
    monkeypatch.setattr(review, "parse_edits", counted_edits)
    desk.clips()
    desk.facets()
    assert looked == []
    for song in range(songs):
        saved = desk.save(f"{song}_1", 0, {"lyrics": f"words of {song}"})
        assert saved.record.lyrics == f"words of {song}" and desk.progress()["total"] == len(records)
    assert looked == [f"{song}_{part}" for song in range(songs) for part in range(2)]
    assert sum(parsed) == songs
    undone = desk.undo("3_1", desk.clip("3_1").correction.version)
    assert undone.record.lyrics == "la" and looked[-2:] == ["3_0", "3_1"]
    assert [clip.record for clip in desk.clips()] == [clip.record for clip in ReviewDesk(desk.folder.root).clips()]


def test_edits_that_were_taken_out_of_the_file_by_hand_are_gone(tmp_path: Path) -> None:
    desk = ReviewDesk(write_work_folder(tmp_path))
    for clip_id in ("river_000", "lake_003"):
        desk.save(clip_id, 0, {"caption": "rock"})
    file = desk.folder.path(CORRECTIONS_FILE)
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[1])
    assert (desk.clip("river_000").record.caption, desk.clip("lake_003").record.caption) == ("pop, sunny", "rock")
    file.unlink()
    assert desk.clip("lake_003").correction.version == 0
