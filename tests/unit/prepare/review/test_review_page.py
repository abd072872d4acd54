"""The review page over HTTP: lists, clips, saving, undoing, and two who change the same clip."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from limits import SAFETY_SECONDS
from local_pages import Client, serving
from prepare_songs import RATE
from review_songs import SECONDS, apply_corrections, clip, write_work_folder

from songgen.cli.main import main
from songgen.prepare.engine.record import Refusal, SongRecord
from songgen.prepare.engine.record_files import RECORDS_FILE, read_records
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import apply_outcome
from songgen.prepare.listening.fingerprint import to_text
from songgen.prepare.review.corrections import CORRECTIONS_FILE, EditLog
from songgen.prepare.review.desk import PAGE_SIZE, ReviewDesk, Selection, find_work_folder
from songgen.prepare.review.page import NUM_PEAKS, ReviewPage, peaks_of
from songgen.prepare.steps.duplicates import DuplicateOptions, DuplicateStep
from songgen.web.server import LocalServer


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work_folder(tmp_path)


@pytest.fixture
def client(work: Path) -> Iterator[Client]:
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as client:
        yield client


def ids(client: Client, query: str = "") -> list[str]:
    answer = client.get(f"/api/clips?{query}")
    assert answer.status == 200, answer.body
    return [entry["id"] for entry in answer.json["clips"]]


def opened(client: Client, clip_id: str = "river_000") -> dict[str, Any]:
    values: dict[str, Any] = client.get(f"/api/clips/{clip_id}").json["clip"]
    return values


def save(client: Client, clip_id: str = "river_000", version: int | None = None, **changes: Any) -> Any:
    version = opened(client, clip_id)["version"] if version is None else version
    return client.post(f"/api/clips/{clip_id}", {"version": version, "changes": changes})


def written(work: Path) -> list[Any]:
    path = work / CORRECTIONS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


ALL = ["river_000", "river_001", "lake_003", "lake_002", "gone"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        ("state=in", ["river_000", "lake_003", "lake_002"]),
        ("state=out", ["river_001", "gone"]),
        ("state=open", ALL),
        ("state=accepted", []),
        ("reason=vocal_too_quiet", ["river_001"]),
        ("language=de", ["lake_003"]),
        ("language=", ["lake_002", "gone"]),
        ("search=SECOND", ["river_000", "river_001"]),
        ("search=sunny&state=in", ["river_000", "lake_003", "lake_002"]),
        ("search=lake_0", ["lake_003", "lake_002"]),
        ("search=nowhere", []),
        ("order=confidence", ["river_000", "river_001", "lake_003", "lake_002", "gone"]),
    ],
)
def test_the_list_shows_what_is_asked_for(client: Client, query: str, expected: list[str]) -> None:
    assert ids(client, query) == expected


def test_clips_without_any_confidence_come_last(work: Path) -> None:
    clips = ReviewDesk(work).clips()
    values = [entry.confidence for entry in Selection(order="confidence").of(clips[::-1])]
    assert values == [0.5, 0.6, 0.8, None, None]


@pytest.mark.parametrize("query", ["state=odd", "order=odd", "page=x"])
def test_a_list_that_there_is_not_is_refused(client: Client, query: str) -> None:
    assert client.get(f"/api/clips?{query}").status == 400


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    work = write_work_folder(tmp_path)
    one = clip("river", 0, work)
    lines = [one.to_json().replace('"river_000"', f'"river_{number:03d}"') for number in range(PAGE_SIZE + 3)]
    (work / RECORDS_FILE).write_text("\n".join(lines) + "\n")
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as client:
        answer = client.get("/api/clips?page=2").json
        assert [entry["id"] for entry in answer["clips"]] == ["river_050", "river_051", "river_052"]
        assert (answer["first"], answer["found"], answer["pages"]) == (51, 53, 2)
        assert client.get("/api/clips?page=99999999999").json["page"] == 2


def test_the_list_says_what_can_be_chosen_and_how_far_the_review_is(client: Client) -> None:
    save(client, verdict="accepted", reason="")
    answer = client.get("/api/clips?state=out").json
    assert answer["progress"] == {"reviewed": 1, "total": 5}
    assert dict(answer["facets"]["reasons"]) == {"vocal_too_quiet": 1, "truncated_audio": 1}
    assert dict(answer["facets"]["languages"]) == {"en": 2, "de": 1, "": 2}


def test_a_change_is_on_disk_at_once_and_reaches_the_next_run(client: Client, work: Path) -> None:
    answer = save(client, lyrics="[verse]\nfirst birds", times=[[0.25, 1.5]], tags=["rock"], language="de")
    assert answer.status == 200 and answer.json["clip"]["times"] == [[0.25, 1.5]]
    [line] = written(work)
    assert line["before"]["tags"] == ["pop", "sunny"] and line["before"]["lyrics"].endswith("second words")
    found = apply_corrections([clip("river", 0, work)], work)[0]
    assert (found.lyrics, found.tags, found.language) == ("[verse]\nfirst birds", ("rock",), "de")
    assert [(entry.text, entry.start) for entry in found.lines] == [("first birds", 0.25)]


def test_what_is_the_same_already_is_not_written(client: Client, work: Path) -> None:
    present = opened(client)
    same = {name: present[name] for name in ("lyrics", "times", "language", "tags", "caption", "verdict", "reason")}
    answer = save(client, **same)
    assert answer.status == 200 and answer.json["clip"] == present and not written(work)
    save(client, **{**same, "caption": "rock"})
    assert list(written(work)[0]["changes"]) == ["caption"]


def test_changes_survive_another_start(client: Client, work: Path) -> None:
    save(client, caption="rock")
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as later:
        assert opened(later)["caption"] == "rock"
        assert ids(later, "state=corrected") == ["river_000"]


def test_who_has_seen_an_older_version_overwrites_nothing(client: Client, work: Path) -> None:
    seen = opened(client)["version"]
    assert save(client, version=seen, caption="first tab").status == 200
    answer = save(client, version=seen, caption="second tab")
    assert answer.status == 409 and answer.json["clip"]["caption"] == "first tab"
    assert len(written(work)) == 1
    assert save(client, version=answer.json["clip"]["version"], caption="second tab").status == 200
    assert client.post("/api/clips/river_000/undo", {"version": seen}).status == 409


def test_a_version_is_one_of_its_own_clip(client: Client) -> None:
    """Changes of other clips are in nobody's way."""
    seen = opened(client, "lake_002")["version"]
    save(client, caption="rock")
    assert save(client, "lake_002", version=seen, caption="folk").status == 200


def test_another_server_on_the_same_folder_is_seen(client: Client, work: Path) -> None:
    seen = opened(client)["version"]
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as other:
        save(other, caption="elsewhere")
    assert opened(client)["caption"] == "elsewhere"
    assert save(client, version=seen, caption="here").status == 409


@pytest.mark.parametrize("version", [None, "1", True, 1.0])
def test_a_change_names_a_version(client: Client, work: Path, version: Any) -> None:
    answer = client.post("/api/clips/river_000", {"version": version, "changes": {"caption": "x"}})
    assert answer.status == 400 and not written(work)


def test_problems_are_named_and_nothing_is_written(client: Client, work: Path) -> None:
    answer = save(client, caption="fine", language="english", tags="no list")
    assert answer.status == 422 and len(answer.json["problems"]) == 2 and not written(work)


def test_undo_goes_back_change_by_change(client: Client, work: Path) -> None:
    for caption in ("first", "second"):
        save(client, caption=caption)
    seen = []
    for _ in range(3):
        state = opened(client)
        seen.append((state["caption"], state["can_undo"]))
        client.post("/api/clips/river_000/undo", {"version": state["version"]})
    assert seen == [("second", True), ("first", True), ("pop, sunny", False)]
    assert len(written(work)) == 4, "nothing is ever removed, and nothing more can be taken back"


def test_a_change_and_its_undoing_are_found_by_the_same_cuts(client: Client, work: Path) -> None:
    """Each cut may drift by as much as is allowed; what is taken back must not come to life with one of them."""
    first = clip("river", 0, work)
    save(client, caption="rock")
    write_work_folder(work.parent, [replace(first, start=0.2)])
    client.post("/api/clips/river_000/undo", {"version": opened(client)["version"]})
    assert apply_corrections([replace(first, start=-0.2)], work)[0].caption == first.caption
    assert apply_corrections([replace(first, start=0.4)], work)[0].caption == first.caption


def test_accepting_takes_a_clip_in_and_undoing_it_leaves_it_out_again(client: Client) -> None:
    save(client, "river_001", verdict="accepted", reason="")
    state = opened(client, "river_001")
    assert state["refusal"] is None and ids(client, "state=in")[1] == "river_001"
    client.post("/api/clips/river_001/undo", {"version": state["version"]})
    assert opened(client, "river_001")["refusal"]["code"] == "vocal_too_quiet"


def test_refusing_keeps_the_reason(client: Client) -> None:
    save(client, verdict="refused", reason="coughing")
    assert opened(client)["refusal"]["reason"] == "coughing"
    assert ids(client, "state=refused&reason=refused_in_review") == ["river_000"]


def test_a_broken_song_cannot_be_accepted_but_noted(client: Client) -> None:
    assert opened(client, "gone")["can_accept"] is False
    assert save(client, "gone", verdict="accepted").status == 422
    assert save(client, "gone", verdict="refused", reason="").status == 200


def test_a_run_in_the_meantime_is_seen_and_lost_places_are_listed(client: Client, work: Path) -> None:
    save(client, caption="rock")
    write_work_folder(work.parent, [clip("lake", 2, work)])
    answer = client.get("/api/clips").json
    assert [entry["id"] for entry in answer["clips"]] == ["lake_002"]
    [orphan] = answer["orphans"]
    assert (orphan["song"], orphan["start"], orphan["changes"]) == ("river", 0.0, {"caption": "rock"})
    assert client.get("/api/clips/river_000").status == 404


def test_tracks_are_heard_in_parts_and_by_name_alone(client: Client, work: Path) -> None:
    content = (work / "audio/segment/river_000.vocal.wav").read_bytes()
    answer = client.get("/audio/river_000/vocal", Range="bytes=44-99")
    assert (answer.status, answer.body) == (206, content[44:100])
    assert answer.headers["Content-Type"] == "audio/wav"


@pytest.mark.parametrize(
    "path",
    [
        "/audio/river_000/acc",
        "/audio/gone/mix",
        "/audio/..%2F..%2Fetc%2Fpasswd/mix",
        "/audio/river_000/..%2F..%2Frecords.jsonl",
        "/assets/..%2Freview.py",
        "/assets/review.py",
        "/api/clips/nobody",
        "/api/clips/gone/peaks/mix",
    ],
)
def test_what_is_no_clip_track_or_asset_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status == 404


@pytest.mark.parametrize("request_path", ["/audio/river_000/mix", "/api/clips/river_000/peaks/mix"])
def test_tracks_that_are_not_files_of_the_work_folder_are_not_opened(
    client: Client, work: Path, request_path: str
) -> None:
    """A work folder that was received from somebody may hold anything."""
    track = work / "audio/segment/river_000.mix.wav"
    outside = work.parent / "private.wav"
    track.rename(outside)
    track.symlink_to(outside)
    assert client.get(request_path).status == 404
    track.unlink()
    os.mkfifo(track)
    assert client.get(request_path).status == 404
    track.unlink()
    track.mkdir()
    assert client.get(request_path).status == 404


def test_songs_that_were_not_cut_are_heard_where_they_are(tmp_path: Path) -> None:
    work = write_work_folder(tmp_path)
    song = tmp_path / "song.wav"
    (work / "audio/segment/river_000.mix.wav").rename(song)
    write_work_folder(tmp_path, [replace(clip("river", 1, work), audio={"mix": str(song)})])
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as client:
        assert client.get("/audio/river_001/mix").body == song.read_bytes()


def test_records_that_name_other_files_of_the_machine_do_not_show_them(tmp_path: Path) -> None:
    secret = tmp_path / "private_key"
    secret.write_text("secret")
    work = write_work_folder(tmp_path)
    write_work_folder(tmp_path, [replace(clip("river", 1, work), audio={"mix": str(secret)})])
    with serving(ReviewPage(ReviewDesk(work), "songs").routes()) as client:
        assert client.get("/audio/river_001/mix").status == 404


def test_of_changes_at_the_same_time_one_is_saved(client: Client, work: Path) -> None:
    seen = opened(client)["version"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: save(client, version=seen, caption=f"caption {number}"), range(8)))
    assert sorted(answer.status for answer in answers) == [200] + 7 * [409]
    assert len(written(work)) == 1


def test_a_change_waits_while_the_clips_are_read_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With half of the clips it would seem as if somebody else had changed the clip."""
    desk = ReviewDesk(work)
    version = desk.save("river_000", 0, {"caption": "rock"}).correction.version
    begun, release = threading.Event(), threading.Event()

    class SlowRecords(list[SongRecord]):
        def __iter__(self) -> Iterator[SongRecord]:
            begun.set()
            assert release.wait(20)
            return super().__iter__()

    records = SlowRecords(read_records(work / RECORDS_FILE))
    monkeypatch.setattr("songgen.prepare.review.desk.read_records", lambda path: records)
    os.utime(work / RECORDS_FILE, (1, 1))
    with ThreadPoolExecutor(2) as pool:
        pool.submit(desk.clips)
        assert begun.wait(20)
        compared = pool.submit(desk._require_version, "river_000", version, desk._log.read())
        wait([compared], timeout=0.3)
        release.set()
        assert compared.result(timeout=20).version == version


def test_a_clip_that_a_run_removes_during_a_change_is_not_found(
    client: Client, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(log: EditLog, record: SongRecord, make: Any) -> None:
        write_work_folder(work.parent, [clip("lake", 2, work)])

    monkeypatch.setattr(EditLog, "append", append)
    assert save(client, caption="rock").status == 404


def test_a_waveform_has_the_loudest_sample_of_each_part(client: Client) -> None:
    peaks = client.get("/api/clips/river_000/peaks/mix").json["peaks"]
    assert len(peaks) == NUM_PEAKS and 5 < max(peaks) <= 20
    samples = np.zeros(NUM_PEAKS * 10, dtype=np.float32)
    samples[25], samples[-1] = -0.5, 2.0
    drawn = peaks_of(samples)
    assert (drawn[2], drawn[-1], sum(drawn)) == (50, 100, 150)
    assert peaks_of(np.full(3, 0.25, dtype=np.float32)) == [25, 25, 25]
    assert RATE * SECONDS > NUM_PEAKS


def test_audio_that_is_gone_says_so(client: Client, work: Path) -> None:
    (work / "audio/segment/river_000.mix.wav").unlink()
    assert client.get("/audio/river_000/mix").status == 404
    assert "no such file" in client.get("/api/clips/river_000/peaks/mix").json["error"]


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/").body.decode()
    assert "http://" not in page and "https://" not in page and "<style" not in page and "onclick" not in page
    for name in ("review.css", "review.js", "player.js", "lyrics.js", "icon.svg"):
        assert client.get(f"/assets/{name}").status == 200
        text = client.get(f"/assets/{name}").body.decode()
        assert "innerHTML" not in text and "https://" not in text


def test_the_folder_may_be_the_data_set_or_its_work_folder(work: Path) -> None:
    assert find_work_folder(work) == find_work_folder(work.parent / "songs") == work
    with pytest.raises(ValueError, match=r"not a data set .* elsewhere.work"):
        find_work_folder(work.parent / "elsewhere")


def test_an_open_address_takes_its_token_from_the_environment_or_a_private_file(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Command lines can be read by every user of a machine."""
    addresses = []
    secret = tmp_path / "secret"
    secret.write_text("a-token-of-a-file\n")
    secret.chmod(0o644)
    open_address = ["review", str(work), "--host", "0.0.0.0", "--port", "0"]
    monkeypatch.setattr(LocalServer, "serve", lambda server: addresses.append(server.url))
    monkeypatch.setenv("SONGGEN_PAGE_TOKEN", "a-token-of-the-environment")
    assert main(open_address) == 0
    assert main([*open_address, "--token_file", str(secret)]) == 2
    assert "chmod 600" in capsys.readouterr().err
    secret.chmod(0o600)
    assert main([*open_address, "--token_file", str(secret)]) == 0
    assert main([*open_address, "--token_file", str(tmp_path / "missing")]) == 2
    monkeypatch.setenv("SONGGEN_PAGE_TOKEN", "")
    assert main(open_address) == 2 and "SONGGEN_PAGE_TOKEN is set but empty" in capsys.readouterr().err
    assert [address.partition("token=")[2] for address in addresses] == [
        "a-token-of-the-environment", "a-token-of-a-file"
    ]  # fmt: skip


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_the_command_names_the_extra_that_is_missing(work: Path, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from songgen.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "review", str(work)], capture_output=True, text=True, timeout=SAFETY_SECONDS
    )
    assert result.returncode == 2 and 'pip install "songgen[page]"' in result.stderr


def test_the_command_refuses_an_open_address_and_a_wrong_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(work), "--host", "0.0.0.0"]) == 2
    assert "--token_file" in capsys.readouterr().err
    assert main(["review", str(work.parent / "elsewhere")]) == 2
    assert "songgen prepare" in capsys.readouterr().err


COPY = Refusal("duplicates", "duplicate", "it sounds like river_000, which is kept", 0.9, 0.65, kept="river_000")


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Client]:
    """A clip that is kept, and two copies of it."""
    folder = write_work_folder(tmp_path)
    records = [clip("river", 0, folder), clip("lake", 0, folder, refusal=COPY), clip("sea", 0, folder, refusal=COPY)]
    with serving(ReviewPage(ReviewDesk(write_work_folder(tmp_path, records)), "songs").routes()) as client:
        yield client


def keep(client: Client, clip_id: str) -> Any:
    return client.post(f"/api/clips/{clip_id}/keep", {"version": opened(client, clip_id)["version"]})


def test_another_copy_can_be_kept_instead(copies: Client) -> None:
    assert opened(copies, "lake_000")["copy_of"] == "river_000" and opened(copies)["copy_of"] == ""
    assert keep(copies, "lake_000").status == 200
    state = opened(copies, "lake_000")
    assert state["verdict"] == "accepted" and state["refusal"] is None
    assert keep(copies, "river_000").status == 422, "it is not a copy of another clip"


def test_only_one_copy_stays_accepted(copies: Client) -> None:
    save(copies, verdict="accepted", reason="")
    assert keep(copies, "lake_000").status == 200
    assert [opened(copies, name)["verdict"] for name in ("river_000", "lake_000", "sea_000")] == ["", "accepted", ""]


def test_a_copy_that_was_changed_elsewhere_is_not_kept_unseen(copies: Client) -> None:
    version = opened(copies, "lake_000")["version"]
    save(copies, "lake_000", caption="other")
    assert copies.post("/api/clips/lake_000/keep", {"version": version}).status == 409


def test_the_next_run_keeps_the_chosen_copy(copies: Client, tmp_path: Path) -> None:
    keep(copies, "lake_000")
    folder = tmp_path / "songs.work"
    sound = to_text(np.random.default_rng(0).integers(1, 2**32, size=60, dtype=np.uint32))
    found = [clip(name, 0, folder, fingerprint=sound) for name in ("river", "lake", "sea")]
    step = DuplicateStep(DuplicateOptions())
    records = [
        result
        for record, outcome in zip(
            found, step.run_all(apply_corrections(found, folder), WorkFolder(folder)), strict=True
        )
        for result in apply_outcome(step, apply_corrections([record], folder)[0], outcome)
    ]
    after = apply_corrections(records, folder)
    assert [record.id for record in after if record.refusal is None] == ["lake_000"]
    assert all("a person has accepted it" in record.refusal.reason for record in after if record.refusal)
