"""The list of what lies below some folders."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from songgen.cli.main import main
from songgen.doctor import listing
from songgen.doctor.listing import Entry, find_entries, table
from songgen.exit_codes import EXIT_DONE, EXIT_USAGE
from songgen.prepare.output.writers import PreparedInfo
from songgen.runtime import json_files


def by_name(*roots: Path) -> dict[str, Entry]:
    return {Path(entry.folder).name: entry for entry in find_entries(roots)}


def write_json(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def write_run(folder: Path, status: str, **values: Any) -> Path:
    write_json(folder / "run_status.json", {"status": status, "run_id": "r", **values})
    return folder


def test_data_sets_runs_and_models_are_listed_with_size_and_state(originals: Path) -> None:
    found = by_name(originals)
    songs, run, model = found["songs"], found["run"], found["model"]
    assert (songs.kind, songs.state, songs.rows) == ("tokens", "finished", 7) and songs.hours and songs.hours < 0.01
    assert (run.kind, run.state, run.detail) == ("run", "finished", "step 8 of 8") and run.size
    assert (model.kind, model.state) == ("model", "finished") and model.size
    assert "audio_codec" not in found and not any(name.startswith("checkpoint") for name in found)


def test_prepared_songs_and_unfinished_work(tmp_path: Path) -> None:
    clips, seconds = {"train": 3, "eval": 1}, {"train": 5400.0, "eval": 1800.0}
    info = PreparedInfo("f", clips=clips, seconds=seconds, refused={}, files=[])
    write_json(tmp_path / "a" / "prepared.json", vars(info))
    write_json(tmp_path / "a.work" / "songs.jsonl", {})
    write_json(tmp_path / "b.work" / "songs.jsonl", {})
    write_json(tmp_path / "b.work" / "lock.json", {"pid": os.getpid(), "host": socket.gethostname()})
    write_json(tmp_path / "c.work" / "songs.jsonl", {})
    write_json(tmp_path / "d" / "prepared.json", {"format_version": 99})
    write_json(tmp_path / "e.work" / "plan" / "plan.json", {"splits": {"train": {"rows": 20, "chunk_rows": 8, "offsets": [0, 1, 2, 3]}}})  # fmt: skip # noqa: E501
    write_json(tmp_path / "e.work" / "chunks" / "train-000000.json", {})
    found = by_name(tmp_path)
    assert (found["a"].rows, found["a"].hours, found["a"].state) == (4, 2.0, "finished") and "a.work" not in found
    assert [found[name].state for name in ("b.work", "c.work", "d", "e.work")] == ["running", "unfinished", "failed", "unfinished"]  # fmt: skip # noqa: E501
    assert found["e.work"].detail == "1 of 3 chunks" and found["e.work"].kind == "tokens"


def test_a_damaged_status_is_said_and_hides_no_other_run(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "stopped", step=3, total_steps=8)
    for name, values in {
        "reason": {"reason": 7},
        "status": {"status": {"a": 1}},
        "title": {"diagnosis": {"title": 5}},
    }.items():
        write_run(tmp_path / name, "failed")
        write_json(tmp_path / name / "run_status.json", {"status": "failed", "run_id": "b"} | values)
    found = by_name(tmp_path)
    assert (found["good"].state, found["good"].detail) == ("stopped", "step 3 of 8")
    assert all(found[name].state == "unfinished" for name in ("reason", "status", "title"))
    assert all("run_status.json does not have the expected form" in found[name].detail for name in ("reason", "status"))
    write_json(
        tmp_path / "good" / "heartbeat-0.json",
        {"rank": 0, "step": "x", "doing": [], "time": 1.0, "pid": 1, "host": "h"},
    )
    assert by_name(tmp_path)["good"].detail == "step 3 of 8"


def test_runs_say_where_they_are_and_why_they_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "stopped", "stopped", step=3, total_steps=8)
    write_run(tmp_path / "failed", "failed", step=5, total_steps=8, reason="the loss is not finite")
    beat = {"rank": 0, "step": 6, "doing": "step", "time": 1.0, "pid": os.getpid(), "host": socket.gethostname()}
    for name in ("killed", "running"):
        write_run(tmp_path / name, "running", total_steps=8)
        write_json(tmp_path / name / "heartbeat-0.json", beat)
    write_json(tmp_path / "running" / ".run.lock", {"pid": os.getpid(), "host": socket.gethostname()})
    write_json(tmp_path / "far" / ".run.lock", {"pid": 1, "host": "another machine"})
    assert by_name(tmp_path)["far"].state == "unfinished", "a container under another name, whose lock is free"
    monkeypatch.setattr("songgen.runtime.folder_owner.has_local_locks", lambda folder: False)
    told = {name: (entry.state, entry.detail) for name, entry in by_name(tmp_path).items()}
    assert told == {
        "stopped": ("stopped", "step 3 of 8"),
        "failed": ("failed", "step 5 of 8, the loss is not finite"),
        "killed": ("failed", "killed, step 6 of 8"),
        "running": ("running", "step 6 of 8"),
        "far": ("running", ""),
    }


def test_the_newest_stands_first_and_links_lead_nowhere_twice(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "middle")):
        folder = write_run(tmp_path / "deep" / "er" / name, "finished")
        time = 1000.0 * (1, 3, 2)[number]
        os.utime(folder / "run_status.json", (time, time))
        os.utime(folder, (time, time))
    (tmp_path / "deep" / "round").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "deep" / "er" / "old")
    (tmp_path / ".hidden").mkdir()
    write_run(tmp_path / ".hidden" / "run", "finished")
    write_run(tmp_path.joinpath(*"abcdefg"), "finished")
    assert [Path(entry.folder).name for entry in find_entries([tmp_path, tmp_path / "deep"])] == [
        "new",
        "middle",
        "again",
    ]


def test_links_out_of_the_allowed_folders_and_folders_of_jobs_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    for folder in (place / "outputs" / "model", elsewhere / "model", place / "outputs" / "jobs" / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "songgen"}')
    (place / "link").symlink_to(elsewhere)
    opened: list[Path] = []
    original = listing.recognize
    monkeypatch.setattr(listing, "recognize", lambda folder: opened.append(folder) or original(folder))
    find_entries([place], [place])
    assert place / "outputs" / "model" in opened
    assert not [path for path in opened if "link" in path.parts or "jobs" in path.parts]
    find_entries([place])
    assert place / "link" / "model" in opened


def test_only_small_files_are_read(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, read_text = Path.read_bytes, Path.read_text
    sizes: list[int] = []

    def counted(read: Any) -> Any:
        def reading(path: Path, *arguments: Any, **options: Any) -> Any:
            sizes.append(path.stat().st_size if path.exists() else 0)
            return read(path, *arguments, **options)

        return reading

    monkeypatch.setattr(Path, "read_bytes", counted(read_bytes))
    monkeypatch.setattr(Path, "read_text", counted(read_text))
    monkeypatch.setattr(json_files, "read_regular", counted(json_files.read_regular))
    assert len(find_entries([originals])) >= 4
    assert max(sizes) < 100_000 and len(sizes) < 40


def test_names_from_outside_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = os.fsdecode(b"evil\x1b[2J\n\xff")
    write_run(tmp_path / evil, "failed", reason="because\x1b[2J\nof " + "x" * 200)
    assert main(["list", str(tmp_path)]) == EXIT_DONE
    head, row = capsys.readouterr().out.splitlines()
    assert "\x1b" not in row and "evil\\x1b[2J\\n\\udcff" in row and row.index("run ") == head.index("what")
    assert "failed: because" in row and "..." in row
    assert main(["list", str(tmp_path), "--json"]) == EXIT_DONE
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["folder"].endswith(evil) and entry["detail"].endswith("x" * 200)


def test_what_is_listed_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip # noqa: E501
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == EXIT_USAGE
    assert "neither datasets nor outputs" in capsys.readouterr().err
    (tmp_path / "outputs").mkdir()
    assert main(["list"]) == EXIT_DONE and "nothing yet in outputs" in capsys.readouterr().out
    write_run(tmp_path / "outputs" / "a", "finished", step=2)
    shutil.copytree(tmp_path / "outputs", tmp_path / "datasets")
    assert main(["list"]) == EXIT_DONE
    assert capsys.readouterr().out.count("finished: step 2") == 2
    assert main(["list", "absent"]) == EXIT_USAGE


def test_times_and_sizes_are_those_of_people() -> None:
    entry = Entry("a", "tokens", "finished", 0.0, rows=12345, hours=1234.5, size=3 << 20)
    assert "12,345 clips, 1,234.50 h, 3.0 MiB" in table([entry])[1]
    assert listing.to_json([entry]).count("1970-01-01T00:00:00+00:00") == 1


def test_tokenizing_and_preparing_say_how_far_they_are(tmp_path: Path) -> None:
    progress = {"phase": "encoding", "done": 12, "total": 40, "unit": "clips", "started": 1.0, "seconds_left": 300.0}
    lock = {"pid": os.getpid(), "host": socket.gethostname()}
    for kind in ("tokenize", "prepare"):
        for state in ("running", "killed", "stopped", "failed"):
            work = tmp_path / f"{kind}-{state}.work"
            told = {"status": state.replace("killed", "running"), "run_id": "r", "progress": progress}
            write_json(work / f"{kind}_status.json", told | ({"reason": "no such codec"} if state == "failed" else {}))
            if state == "running":
                write_json(work / "lock.json", lock)
    found = by_name(tmp_path)
    for kind, name in (("tokenize", "tokens"), ("prepare", "songs")):
        entries = {state: found[f"{kind}-{state}.work"] for state in ("running", "killed", "stopped", "failed")}
        assert {entry.kind for entry in entries.values()} == {name}
        assert {state: (entry.state, entry.detail) for state, entry in entries.items()} == {
            "running": ("running", "encoding: 12 of 40 clips, 5 min left"),
            "killed": ("failed", "killed, encoding: 12 of 40 clips"),
            "stopped": ("stopped", "encoding: 12 of 40 clips"),
            "failed": ("failed", "encoding: 12 of 40 clips, no such codec"),
        }
    running = json.loads(listing.to_json([found["prepare-running.work"]]))[0]
    assert running["progress"] == progress


def test_a_preparation_that_is_repeated_is_listed_beside_its_data_set(tmp_path: Path) -> None:
    info = PreparedInfo("f", clips={"train": 1}, seconds={"train": 1.0}, refused={}, files=[])
    write_json(tmp_path / "a" / "prepared.json", vars(info))
    write_json(tmp_path / "a.work" / "prepare_status.json", {"status": "finished", "run_id": "r"})
    assert set(by_name(tmp_path)) == {"a"}
    write_json(tmp_path / "a.work" / "lock.json", {"pid": os.getpid(), "host": socket.gethostname()})
    assert by_name(tmp_path)["a.work"].state == "running"
