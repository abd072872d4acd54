"""Prepared data sets, finished and not, whole and damaged."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from diagnoses import at, findings
from prepare_songs import tone, write_song

from songgen.doctor import Kind, Level, examine
from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import TooManyBadSongs, prepare
from songgen.prepare.sections import REFUSAL_CODES

Copy = Callable[[], Path]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs, one of them too short, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    for number, seconds in enumerate((6.0, 7.0, 0.5)):
        write_song(folder / "songs", f"song{number}.wav", seconds=seconds)
    run(folder)
    return folder


def run(folder: Path, *overrides: str) -> None:
    config = {"inputs": [str(folder / "songs")], "output_dir": str(folder / "out"), "segment": None, "filter": None}
    (folder / "config.json").write_text(json.dumps(config))
    prepare(load_prepare_config([str(folder / "config.json"), *overrides]))


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Copy:
    """Copy data set and work folder; return the former."""

    def made() -> Path:
        return Path(shutil.copytree(original, tmp_path / "prepared")) / "out"

    return made


def test_a_finished_data_set_is_explained(copy: Copy) -> None:
    out = copy()
    for deep in (False, True):
        diagnosis = examine(out, deep=deep)
        assert diagnosis.kind is Kind.PREPARED and diagnosis.is_fine
    assert at(out, "train")[0].what.startswith("2 clips, 0.00 h; all audio files are there")
    assert [finding.what for finding in at(out, "left out")] == [f"1 x too_short: {REFUSAL_CODES['too_short'].meaning}"]
    assert at(out, "next")[0].what == f"songgen tokenize {out / 'data.json'}"
    out.with_name("out_tokens").mkdir()
    assert not at(out, "next") and at(out, "tokens")


def test_damaged_audio_is_named(copy: Copy) -> None:
    out = copy()
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    gone, longer = (out / row["audio_file_name"] for row in rows)
    gone.unlink()
    longer.unlink()
    soundfile.write(longer, np.concatenate([tone(2.0), tone(30.0)]), 16_000)
    problems = {finding.where: finding.what for finding in findings(out, Level.ERROR)}
    assert problems[rows[0]["audio_file_name"]] == "the file is missing"
    assert problems[rows[1]["audio_file_name"]].startswith("it has 32.00 s, its row states")
    assert "2 audio files cannot be used" in problems["train"]


def test_a_file_that_was_cut_is_found_by_decoding_it(copy: Copy) -> None:
    out = copy()
    row = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
    path = out / row["audio_file_name"]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    assert row["audio_file_name"] in {finding.where for finding in findings(out, Level.ERROR, deep=True)}


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("prepared.json", "{", "prepared.json"),
        ("metadata.jsonl", "no JSON\n", "metadata.jsonl"),
        ("metadata.jsonl", '{"duration": 1.0}\n', "metadata.jsonl"),
        ("data.json", None, "files"),
    ],
)
def test_files_that_are_damaged_or_gone(copy: Copy, name: str, content: str | None, where: str) -> None:
    out = copy()
    (out / name).unlink()
    if content is not None:
        (out / name).write_text(content)
    problems = findings(out, Level.ERROR)
    assert name in {problem.where for problem in problems}
    assert any(problem.where == where and "songgen prepare" in problem.way_out for problem in problems)


def test_corrections_that_wait_are_said(copy: Copy) -> None:
    out = copy()
    edit = {"id": "song0", "song": "song0", "start": 0, "end": 6, "time": "", "changes": {"caption": "rock"}}
    (out.with_name("out.work") / "corrections.jsonl").write_text(json.dumps(edit) + "\n")
    [found] = at(out, "corrections")
    assert found.level is Level.WARNING and found.what == "1 of 1 were made since the last run"
    run(out.parent)
    assert at(out, "corrections")[0].what == "1, all applied"


def test_unfinished_work_says_how_far_it_is_and_what_goes_on(copy: Copy) -> None:
    out = copy()
    shutil.rmtree(out)
    work = out.with_name("out.work")
    (work / "records.jsonl").unlink()
    for folder in (out, work):
        diagnosis = examine(folder)
        assert diagnosis.kind is Kind.PREPARING and not diagnosis.is_fine
    assert at(work, "songs")[0].what == "3 in the inputs" and at(work, "take_in")[0].what == "3 results are saved"
    [unfinished] = at(work, "data set")
    assert unfinished.level is Level.ERROR and "songgen prepare" in unfinished.way_out
    (work / "lock.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert examine(work).is_fine and at(work, "activity")[0].what.startswith("preparation is active: process")


def test_a_run_that_left_nothing_names_the_reasons(copy: Copy) -> None:
    out = copy()
    shutil.rmtree(out)
    with pytest.raises(TooManyBadSongs):
        run(out.parent, "--take_in.min_seconds", "20", "--take_in.max_seconds", "60")
    work = out.with_name("out.work")
    assert "3 x too_short" in at(work, "left out")[0].what
    assert "rejected.jsonl" in at(work, "data set")[0].way_out
