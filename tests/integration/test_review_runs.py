"""Prepared, reviewed with the command, prepared again: the data set has what a person wants, whatever runs anew."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from limits import SAFETY_SECONDS
from prepare_songs import write_song

from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import PrepareSummary, prepare
from songgen.prepare.review.desk import ReviewDesk

NAMES = ("calm", "loud", "short")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three songs; clips shorter than 2.5 s are left out."""
    for seed, (name, seconds) in enumerate(zip(NAMES, (4.0, 5.0, 2.2), strict=True)):
        write_song(tmp_path / "songs", f"{name}.wav", seconds=seconds, seed=seed, prompt=f"{name} pop")
    config = {
        "inputs": [str(tmp_path / "songs")],
        "output_dir": str(tmp_path / "out"),
        "language": "en",
        "voice": None,
        "filter": {"min_seconds": 2.5},
        "split": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def run(place: Path, *overrides: str) -> PrepareSummary:
    summary = prepare(load_prepare_config([str(place / "config.json"), *overrides]))
    assert summary is not None
    return summary


def rows(place: Path) -> dict[str, dict[str, Any]]:
    text = (place / "out" / "metadata.jsonl").read_text(encoding="utf-8")
    return {row["song"]: row for row in map(json.loads, text.splitlines())}


def review(place: Path) -> None:
    """Correct one song, refuse another, accept the one that a filter has left out."""
    desk = ReviewDesk(place / "out.work")
    of_song = {clip.record.song: clip.record.id for clip in desk.clips()}
    words = {"lyrics": "quiet words", "lines": [{"text": "quiet words", "start": 1.0, "end": 2.0}]}
    desk.save(of_song["calm"], 0, {**words, "caption": "a calm song", "tags": ["calm"], "language": "de"})
    desk.save(of_song["loud"], 0, {"verdict": "refused", "reason": "noise"})
    desk.save(of_song["short"], 0, {"verdict": "accepted", "reason": ""})


def require_reviewed(place: Path) -> None:
    found = rows(place)
    assert set(found) == {"calm", "short"}
    calm = found["calm"]
    assert (calm["lyrics"], calm["lyrics_source"]) == ("quiet words", "review")
    assert (calm["caption"], calm["tags"], calm["language"]) == ("a calm song", ["calm"], "de")
    assert found["short"]["provenance"]["review"]["parameters"]["lifted"]["code"] == "too_short"
    rejected = json.loads((place / "out" / "rejected.jsonl").read_text())
    assert (rejected["song"], rejected["code"], rejected["reason"]) == ("loud", "refused_in_review", "noise")


@pytest.mark.faults
def test_what_a_person_wants_is_in_the_data_set_of_the_next_run(place: Path) -> None:
    run(place)
    assert set(rows(place)) == {"calm", "loud"}
    review(place)
    assert run(place).is_changed
    require_reviewed(place)
    assert not run(place).is_changed, "a third run has nothing to do"


@pytest.mark.faults
def test_corrections_survive_steps_that_run_anew(place: Path) -> None:
    """Other measures, other rates, a cut at the same places: every result is another one."""
    run(place)
    review(place)
    run(place, "--segment.sample_rate", "8000", "--measure.silence_db", "-50")
    require_reviewed(place)


@pytest.mark.faults
def test_what_is_taken_back_is_as_the_steps_have_it(place: Path) -> None:
    run(place)
    review(place)
    run(place)
    desk = ReviewDesk(place / "out.work")
    for clip in desk.clips():
        desk.undo(clip.record.id, clip.correction.version)
    shown = {clip.record.song: clip.record for clip in desk.clips()}
    run(place)
    assert set(rows(place)) == {"calm", "loud"} and rows(place)["calm"]["caption"] == "calm pop"
    again = {clip.record.song: clip.record for clip in ReviewDesk(place / "out.work").clips()}
    for song in NAMES:
        assert (shown[song].caption, shown[song].lyrics, shown[song].lines, shown[song].refusal) == (
            again[song].caption, again[song].lyrics, again[song].lines, again[song].refusal
        ), "the page has shown before the run what the run gives"  # fmt: skip


@pytest.mark.faults
def test_corrections_of_clips_that_are_no_more_are_warned_of(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(place)
    review(place)
    write_song(place / "songs", "calm.wav", seconds=6.5, seed=0, prompt="calm pop")
    run(place)
    assert "1 corrections match no clip" in caplog.text and "calm 0.0-4.0 s" in caplog.text
    assert rows(place)["calm"]["caption"] == "calm pop"


@pytest.mark.faults
def test_a_correction_that_cannot_be_read_stops_the_run_before_anything_is_lost(place: Path) -> None:
    run(place)
    (place / "out.work" / "corrections.jsonl").write_text('{"odd": 1}\n')
    with pytest.raises(ValueError, match=r"jsonl:1: this is not a correction"):
        run(place)
    assert set(rows(place)) == {"calm", "loud"}


@pytest.mark.faults
def test_the_command_serves_the_page_until_it_is_interrupted(place: Path) -> None:
    run(place)
    for number in (signal.SIGINT, signal.SIGTERM):
        require_served_until(number, place)


def require_served_until(number: signal.Signals, place: Path) -> None:
    command = [sys.executable, "-m", "songgen.cli.main", "review", str(place / "out"), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests that a shell runs in the background ignore the signal, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert said[0].startswith("0 of 3 clips are reviewed") and "Ctrl-C" in said[2]
        address = said[1].removeprefix("open ").strip()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"<title>Review</title>" in browser.open(address, timeout=20).read()
        listed = json.load(browser.open(address.partition("?")[0] + "api/clips", timeout=20))
        assert listed["title"] == "out" and len(listed["clips"]) == 3
        process.send_signal(number)
        said_last, complaints = process.communicate(timeout=SAFETY_SECONDS)
        assert process.returncode == 0 and not complaints and said_last.strip() == "0 of 3 clips are reviewed"
    finally:
        process.kill()
        process.wait(SAFETY_SECONDS)
