import os
from pathlib import Path

from prepare_steps import CutStep, ShoutStep, make_record

from songgen.prepare.engine.record import Refusal
from songgen.prepare.engine.step import StepOutput, WorkFolder
from songgen.prepare.engine.store import (
    MISSING,
    ContentHashes,
    ResultStore,
    outcome_of_values,
    outcome_values,
    result_key,
)


def open_store(root: Path, rank: int = 0, step: str = "shout") -> ResultStore:
    folder = WorkFolder(root)
    return ResultStore(folder, ContentHashes(folder, rank), step, rank)


def test_a_result_is_found_again_by_its_record_and_key(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put("a", "key", StepOutput({"caption": "ä"}))
    with open_store(tmp_path) as store:
        found = store.get("a", "key")
        assert found is not None and found.changes == {"caption": "ä"}
        assert store.get("a", "other") is None and store.get("b", "key") is None


def test_every_kind_of_outcome_survives_the_disk() -> None:
    clip = make_record("a_000", audio={"mix": "audio/x.wav"}, voiced=((0.0, 1.5),), tags=("pop",))
    for outcome in (
        StepOutput(),
        StepOutput({"tempo": 120.0}),
        StepOutput(clips=(clip,)),
        StepOutput(clips=()),
        StepOutput(refusal=Refusal("shout", "no_caption", "none", 0.5, 1.0)),
    ):
        assert outcome_of_values(outcome_values(outcome)) == outcome


def test_a_torn_line_is_no_result_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put("a", "key", StepOutput())
        store.put("b", "key", StepOutput())
    file = tmp_path / "results" / "shout.0.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    with open_store(tmp_path) as store:
        assert store.get("a", "key") is not None and store.get("b", "key") is None
        store.put("c", "key", StepOutput())
    with open_store(tmp_path) as store:
        assert store.get("a", "key") is not None and store.get("c", "key") is not None
    assert file.read_bytes().count(b"\n") == 2


def test_a_file_without_one_whole_line_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "shout.0.jsonl").write_bytes(b'{"id": "a", "ke')
    with open_store(tmp_path) as store:
        store.put("b", "key", StepOutput())
    with open_store(tmp_path) as store:
        assert store.get("b", "key") is not None


def test_results_of_other_processes_are_seen_after_a_refresh(tmp_path: Path) -> None:
    with open_store(tmp_path, 0) as first, open_store(tmp_path, 1) as second:
        second.put("a", "key", StepOutput({"caption": "x"}))
        assert first.get("a", "key") is None
        first.refresh()
        assert first.get("a", "key") is not None


def test_results_of_a_step_are_not_those_of_one_whose_name_begins_alike(tmp_path: Path) -> None:
    with open_store(tmp_path, step="transcribe_second") as store:
        store.put("a", "key", StepOutput())
    with open_store(tmp_path, step="transcribe") as store:
        assert store.get("a", "key") is None


def test_a_result_counts_only_while_its_files_are_there_unchanged(tmp_path: Path) -> None:
    record, folder = make_record("a", caption="x"), WorkFolder(tmp_path)
    (outcome,) = CutStep().run([record], folder)
    with open_store(tmp_path) as store:
        store.put("a", "key", outcome)
    file = folder.path(outcome.clips[1].audio["mix"])  # type: ignore[index]
    content = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(b"cut")):
        damage()
        with open_store(tmp_path) as store:
            assert store.get("a", "key") is None
    file.write_bytes(content)
    with open_store(tmp_path) as store:
        assert store.get("a", "key") == outcome


def test_the_key_follows_whatever_the_result_depends_on(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(b"1")
    hashes = ContentHashes(WorkFolder(tmp_path))
    record = make_record("a", caption="x", audio={"mix": "song.wav"})
    key = result_key(ShoutStep(), record, hashes)
    assert key == result_key(ShoutStep(), make_record("b", caption="x", audio={"mix": "song.wav"}), hashes)
    newer = ShoutStep()
    newer.version = 2  # type: ignore[misc]
    song_changed = make_record("a", caption="y", audio={"mix": "song.wav"})
    keys = {key, result_key(newer, record, hashes), result_key(ShoutStep("?"), record, hashes)}
    keys |= {result_key(ShoutStep(), song_changed, hashes)}
    song.write_bytes(b"2")
    keys |= {result_key(ShoutStep(), record, hashes)}
    assert len(keys) == 5


def test_files_are_hashed_once_and_again_when_they_change(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(b"one")
    hashes = ContentHashes(WorkFolder(tmp_path))
    first = hashes.sha256("song.wav")
    assert ContentHashes(WorkFolder(tmp_path)).sha256("song.wav") == first
    assert (tmp_path / "hashes.0.jsonl").read_text().count("\n") == 1
    os.utime(song, (1, 1))
    assert hashes.sha256("song.wav") == first
    song.write_bytes(b"two")
    assert hashes.sha256("song.wav") != first
    assert hashes.sha256("gone.wav") == MISSING
