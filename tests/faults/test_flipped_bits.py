"""One flipped bit in a work folder or a data set: found and made good, or the file is named; never used silently."""

import hashlib
import json
import logging
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnoses import findings
from prepare_songs import write_song
from preprocess_fakes import fake_encoders, options_for, write_corpus

from songgen.data.schema import DatasetInfo
from songgen.doctor import Level
from songgen.doctor.hashes import accept
from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import prepare
from songgen.prepare.review.desk import ReviewDesk
from songgen.runtime import file_hashes
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.tokenize import tokenize_data
from songgen.tokenize.run import _Run

FLIPS_OF_A_FILE = 2
"""Bits that are flipped in each file, one at a time."""

MADE_NAME = re.compile(r"[a-d]~\d+|[0-9a-f]{64}")
"""Part of a name that is different for each clip."""

MADE_GOOD, NAMED = "made good", "named"


def content_of(folder: Path, *left_out: str) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit; return where."""
    content = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))
    return f"byte {place}, bit {bit}"


def outcome(
    path: Path, action: Callable[[], object], is_right: Callable[[], bool], caplog: pytest.LogCaptureFixture
) -> str:
    """Do the next thing with a damaged folder, and say what came of it."""
    caplog.clear()
    try:
        with caplog.at_level(logging.WARNING):
            action()
    except ValueError as error:
        return NAMED if path.name.removesuffix(path.suffix) in str(error) else f"another error: {error}"
    if is_right():
        return MADE_GOOD
    return NAMED if path.name in caplog.text else "SILENT"


def prepare_songs(folder: Path) -> None:
    prepare(load_prepare_config([str(folder / "config.json")]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four songs, prepared and in part corrected."""
    folder = tmp_path_factory.mktemp("flips")
    for number in range(4):
        name = ("a.wav", "b.flac", "c.ogg", "d.wav")[number]
        write_song(folder / "songs", name, seconds=4.0, seed=number, lyrics="[instrumental]")
    config = {"inputs": [str(folder / "songs")], "output_dir": str(folder / "out"), "language": "en"}
    config |= {
        "voice": None,
        "write": {"audio_format": "flac"},
        "segment": {"min_seconds": 1.0, "target_seconds": 2.0, "max_seconds": 3.0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    prepare_songs(folder)
    desk = ReviewDesk(folder / "out.work")
    for clip in desk.clips()[:3]:
        desk.save(clip.record.id, 0, {"caption": f"corrected, {clip.record.id}"})
    prepare_songs(folder)
    return folder


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_no_bit_of_a_prepared_data_set_and_its_work_folder_flips_silently(
    prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One file of each kind; `random_flips.py` flips any number of bits."""
    rng, found = random.Random(0), Counter[str]()
    whole = prepared.with_name("whole")
    shutil.copytree(prepared, whole)
    expected = content_of(prepared / "out", "prepared.json", HASHES_FILE)
    kinds: dict[str, list[Path]] = {}
    for path in [*files_of(prepared / "out"), *files_of(prepared / "out.work")]:
        name = path.relative_to(prepared)
        kinds.setdefault(MADE_NAME.sub("*", name.as_posix()), []).append(name)
    problems = []
    for name in map(rng.choice, kinds.values()):
        shutil.rmtree(prepared)
        shutil.copytree(whole, prepared)
        where = flip(prepared / name, rng)
        came = outcome(
            prepared / name,
            lambda: prepare_songs(prepared),
            lambda: content_of(prepared / "out", "prepared.json", HASHES_FILE) == expected,
            caplog,
        )
        found[f"{came:10} {name.parts[0]}/{name.parts[1]}"] += 1
        if came not in (MADE_GOOD, NAMED):
            problems.append(f"{name}, {where}: {came}")
    shutil.rmtree(whole)
    print("\n".join(f"{count:4} x {kind}" for kind, count in sorted(found.items())))
    assert not problems, "\n".join(problems)
    assert found.total() > 25


@pytest.mark.case(21)
def test_no_bit_of_a_prepared_data_set_is_tokenized_silently(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged audio is left out, and so is its name in the report; a manifest that has changed is named."""
    rng, problems = random.Random(2), []
    for name in ("audio/*.flac", "metadata.jsonl", "prepare.json"):
        folder = Path(shutil.copytree(prepared / "out", tmp_path / name.replace("*", "x").replace("/", "-")))
        path = rng.choice(sorted(folder.glob(name)))
        options = options_for(folder / "metadata.jsonl", folder / "tokens", max_bad_fraction=0.9)
        where = flip(path, rng)
        caplog.clear()
        try:
            tokenize_data(options, load=lambda *_: fake_encoders())
        except ValueError as error:  # a bit of the manifest that is no longer JSON, or no longer a path
            caplog.handler.records.append(logging.makeLogRecord({"msg": str(error)}))
        rejected = folder / "tokens" / "rejected.jsonl"
        told = caplog.text + (rejected.read_text() if rejected.exists() else "")
        told += "".join(record.getMessage() for record in caplog.records)
        if path.name not in told and name != "prepare.json":
            problems.append(f"{path.name}, {where}: used without a word")
        if not any(path.name in finding.where for finding in findings(folder, Level.ERROR, deep=True)):
            problems.append(f"{path.name}, {where}: the doctor does not name it")
    assert not problems, "\n".join(problems)


class _Stopped(Exception):
    pass


def test_no_bit_of_the_work_folder_of_tokenizing_flips_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_corpus(tmp_path / "corpus", 24)
    options = options_for(manifest, tmp_path / "out")

    def tokenize() -> None:
        tokenize_data(options, load=lambda *_: fake_encoders())

    def stop(run: _Run) -> None:
        raise _Stopped

    with monkeypatch.context() as patch, pytest.raises(_Stopped):
        patch.setattr(_Run, "finish", stop)
        tokenize()
    work, output = options.work_folder, options.output_folder
    whole = tmp_path / "whole"
    shutil.copytree(work, whole)
    tokenize()
    expected = content_of(output)
    rng, found, problems = random.Random(0), Counter[str](), []
    for name in [path.relative_to(whole) for path in files_of(whole)]:
        for _ in range(FLIPS_OF_A_FILE):
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            where = flip(work / name, rng)
            came = outcome(work / name, tokenize, lambda: content_of(output) == expected, caplog)
            found[f"{came:10} {name.parts[0]}"] += 1
            if came not in (MADE_GOOD, NAMED):
                problems.append(f"{name}, {where}: {came}")
    print("\n".join(f"{count:4} x {kind}" for kind, count in sorted(found.items())))
    assert not problems, "\n".join(problems)


@pytest.mark.case(21)
def test_no_bit_of_a_finished_data_set_flips_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A later run of an extended corpus reuses its shards; training reads it, and so do other programs."""
    options = options_for(write_corpus(tmp_path / "corpus", 9), tmp_path / "out")

    def tokenize() -> None:
        tokenize_data(options, load=lambda *_: fake_encoders())

    tokenize()
    output, whole = options.output_folder, tmp_path / "whole"
    shutil.copytree(output, whole)
    expected = content_of(output)
    rng, problems = random.Random(1), []
    names = [path.relative_to(whole) for path in files_of(whole)]
    assert {name.name for name in names} >= {"dataset.json", "state.json", "dataset_dict.json", "report.json"}
    for name in names:
        shutil.rmtree(output)
        shutil.copytree(whole, output)
        where = flip(output / name, rng)
        if not any(name.name in finding.where and finding.level is not Level.OK for finding in findings(output)):
            problems.append(f"{name}, {where}: the doctor does not name it")
        if name.name == "dataset.json":
            with pytest.raises(ValueError, match=name.name):
                DatasetInfo.read(output)
        came = outcome(output / name, tokenize, lambda: content_of(output) == expected, caplog)
        if came not in (MADE_GOOD, NAMED) or content_of(output) != expected:
            problems.append(f"{name}, {where}: {came}")
    assert not problems, "\n".join(problems)


def test_a_data_set_that_is_replaced_while_it_is_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, output = write_corpus(tmp_path / "corpus", 3), tmp_path / "out"
    tokenize_data(options_for(manifest, output), load=lambda *_: fake_encoders())
    write_corpus(tmp_path / "corpus", 6)
    newer = tmp_path / "newer"
    tokenize_data(options_for(manifest, newer), load=lambda *_: fake_encoders())
    read, replaced = file_hashes.read_hashes, []

    def read_and_replace(folder: Path) -> object:
        found = read(folder)
        if not replaced and folder == output:
            replaced.append(output.rename(tmp_path / "older"))
            newer.rename(output)
        return found

    monkeypatch.setattr(file_hashes, "read_hashes", read_and_replace)
    assert DatasetInfo.read(output).num_rows("train") == 6 and replaced


def test_a_data_set_that_was_changed_on_purpose_is_accepted(tmp_path: Path) -> None:
    output = tmp_path / "out"
    tokenize_data(options_for(write_corpus(tmp_path / "corpus", 3), output), load=lambda *_: fake_encoders())
    content = json.loads((output / "dataset.json").read_text())
    (output / "dataset.json").write_text(json.dumps({**content, "codec_spec": {"type": "fake", "path": "moved"}}))
    with pytest.raises(ValueError, match=r"(?s)dataset\.json: .*songgen doctor .* --accept"):
        DatasetInfo.read(output)
    accept(output)
    assert DatasetInfo.read(output).codec_spec["path"] == "moved" and not findings(output, Level.ERROR)
