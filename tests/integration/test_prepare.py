"""From twenty songs to a data set: one command, offline, with tiny models; killed in every step, it goes on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pytest
from limits import SAFETY_SECONDS
from prepare_corpus import BROKEN, DUPLICATE, FOREIGN, INSTRUMENTAL, LONG, ORIGINAL, SINGERS, build_corpus
from preprocess_fakes import fake_encoders
from tiny_demucs import save_tiny_demucs
from tiny_whisper import save_tiny_whisper

from songgen.cli.data.prepare import describe
from songgen.config import load_run_config
from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.prepare.config import load_prepare_config
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import SetStep
from songgen.prepare.engine.store import ResultStore
from songgen.prepare.output.writers import DatasetWriter
from songgen.prepare.preparation import PrepareSummary, TooManyBadSongs, prepare
from songgen.runtime.folder_lock import is_alive
from songgen.runtime.status import PREPARE_STATUS_FILE, read_run_status
from songgen.tokenize import options_of, tokenize_data
from songgen.tokenize.workspace import WORK_LOCK_FILE

ROOT = Path(__file__).resolve().parents[2]
FORK = get_context("fork")
KILLED = -9


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The songs, the models, and the configuration that names them."""
    folder = tmp_path_factory.mktemp("prepare")
    config: dict[str, Any] = {
        **build_corpus(folder / "corpus"),
        "output_dir": str(folder / "out"),
        "language": "en",
        "separate": {"model": str(save_tiny_demucs(folder / "demucs")), "device": "cpu"},
        "transcribe": {
            "model": str(save_tiny_whisper(folder / "whisper")),
            "agreement_model": str(save_tiny_whisper(folder / "whisper_2", seed=1)),
            "retries": 0,
            "device": "cpu",
        },
        "segment": {"max_seconds": 8.0, "target_seconds": 5.0},
        "filter": {"languages": ["en"]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(place: Path, *overrides: str) -> PrepareSummary:
    summary = prepare(load_prepare_config([str(place / "config.json"), *overrides]))
    assert summary is not None
    return summary


@pytest.fixture(scope="module")
def prepared(place: Path) -> Path:
    """The data set, made by the command in a process of its own."""
    command = [sys.executable, "-m", "songgen.cli.main", "prepare", str(place / "config.json")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SAFETY_SECONDS, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    (place / "printed.txt").write_text(result.stdout)
    return place / "out"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_status_stays_with_the_work(prepared: Path) -> None:
    found = read_run_status(prepared.with_name("out.work"), PREPARE_STATUS_FILE)
    assert found is not None and (found.status, found.exit_code) == ("finished", 0)
    assert found.progress is not None and found.progress.phase == "writing the data set"


def test_every_song_is_in_a_clip_or_refused_for_its_reason(place: Path, prepared: Path) -> None:
    rows = [*rows_of(prepared / "metadata.jsonl"), *rows_of(prepared / "metadata_eval.jsonl")]
    refused = {row["song"]: row["code"] for row in rows_of(prepared / "rejected.jsonl")}
    songs = {row["song"] for row in rows}
    assert len(songs | set(refused)) == 20
    assert [refused[song] for song in BROKEN] == ["truncated_audio", "unreadable_audio", "unsupported_format"]
    (copy,) = (row for row in rows_of(prepared / "rejected.jsonl") if row["song"] == DUPLICATE)
    assert (copy["code"], copy["kept"]) == ("duplicate", f"{ORIGINAL}~000")
    assert refused[FOREIGN] == "other_language"
    (instrumental,) = (row for row in rows if row["song"] == INSTRUMENTAL)
    assert instrumental["instrumental"] and not instrumental["lyrics"]
    assert "tag" in instrumental["provenance"], "nobody has described it"
    parts = sorted((row["start"], row["duration"]) for row in rows if row["song"] == LONG)
    assert len(parts) > 1 and all(duration <= 8.0 for _, duration in parts)


def test_clips_have_what_training_needs(prepared: Path) -> None:
    for row in [*rows_of(prepared / "metadata.jsonl"), *rows_of(prepared / "metadata_eval.jsonl")]:
        assert row["caption"], row
        assert {"audio_file_name", "vocal_file_name", "acc_file_name"} <= set(row)
        assert row["tempo"] is None or 40 < row["tempo"] < 300
        assert {"loudness", "silent_share"} <= set(row["measures"])
        assert {"take_in", "segment", "measure"} <= set(row["provenance"])
        marks = [mark for name, mark in row["provenance"].items() if name != "input"]
        assert all({"version", "parameters"} <= set(mark) for mark in marks)


def test_the_summary_says_what_has_come_of_it(place: Path, prepared: Path) -> None:
    printed = (place / "printed.txt").read_text()
    for part in ("20 songs in", "refused, truncated_audio: 1", "next:", "  songgen tokenize "):
        assert part in printed


@pytest.mark.faults
def test_lists_in_the_ljspeech_form_are_printed_too(place: Path, tmp_path: Path) -> None:
    config = load_prepare_config(
        [str(place / "config.json"), "--output_dir", str(tmp_path / "out"), "--export", "ljspeech"]
        + ["--separate", "null", "--transcribe", "null"]
    )
    summary = prepare(config)
    assert summary is not None
    first = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8").splitlines()[0]
    printed = describe(config, summary)
    assert printed[printed.index("train.txt begins:") + 1] == f"  {first}" and first.startswith("audio/")


def test_the_report_names_all_of_that(prepared: Path) -> None:
    report = json.loads((prepared / "report.json").read_text(encoding="utf-8"))
    codes = {entry["code"]: entry["count"] for entry in report["refusals"]}
    assert codes.keys() >= {"truncated_audio", "unreadable_audio", "unsupported_format", "duplicate", "other_language"}
    assert [group["kept"] for group in report["duplicates"]] == [f"{ORIGINAL}~000"]
    assert report["songs"] == 20 and report["stages"][0]["songs"] == 20
    assert report["languages"]["instrumental"]["clips"] >= 1 and report["languages"]["en"]["clips"] > 10
    assert report["clips"] == sum(len(rows_of(prepared / name)) for name in ("metadata.jsonl", "metadata_eval.jsonl"))
    page = (prepared / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*codes, *BROKEN, DUPLICATE, FOREIGN))
    heard = [path for sample in report["samples"]["accepted"] for path in sample["audio"].values()]
    assert heard and all((prepared / path).is_file() for path in heard)


def test_preprocessing_takes_the_data_set(place: Path, prepared: Path) -> None:
    arguments = [str(prepared / "data.json"), "--save_to_disk", str(place / "tokens"), "--max_bad_fraction", "0"]
    options = options_of(load_run_config(arguments, description=""))
    info = tokenize_data(options, load=lambda *_: fake_encoders())
    for split, name in (("train", "metadata.jsonl"), ("eval", "metadata_eval.jsonl")):
        dataset = SongDataset.open(place / "tokens", split)
        rows = rows_of(prepared / name)
        assert len(dataset) == len(rows) == sum(shard.rows for shard in info.splits[split])
        ids = [dataset.row(index).id for index in range(len(dataset))]
        singers = dict(zip(ids, dataset.texts("singer"), strict=True))
        assert singers == {row["fname"]: row.get("singer", "") for row in rows}
        assert set(singers.values()) == ({""} if split == "train" else set(SINGERS)), "clips have their song's"


def test_a_second_run_does_nothing(place: Path, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for folder in (prepared, place / "out.work" / "results")
              for path in folder.rglob("*.jsonl")}  # fmt: skip
    summary = run(place)
    assert not summary.is_changed and summary.songs == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before


def content_of(folder: Path) -> dict[str, str]:
    """Hashes of all files of a data set but those that name its own folder, and the hashes of these."""
    own = ("prepare.json", "data.json", "prepared.json", "file_hashes.json")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in own
    }


def in_a_fork(place: Path, output: Path, hook: Callable[[], None], *overrides: str) -> int | None:
    """Prepare in a child after `hook` has laid a trap; return its exit code."""

    def work() -> None:
        hook()
        run(place, "--output_dir", str(output), *overrides)
        os._exit(0)

    child = FORK.Process(target=work)
    child.start()
    child.join(120)
    assert not child.is_alive()
    return child.exitcode


def die() -> None:
    os.kill(os.getpid(), 9)


def die_in_step(name: str, results: int) -> Callable[[], None]:
    """Trap: the process is killed when a step has found something for so many records, in the middle of a line."""

    def lay() -> None:
        put, count = ResultStore.put, [results]

        def deadly(store: ResultStore, record_id: str, key: str, outcome: Any) -> None:
            if store.step == name:
                count[0] -= 1
                if not count[0]:
                    store._own.append({"id": record_id})
                    with store._own.path.open("r+b") as file:
                        file.truncate(file.seek(0, os.SEEK_END) - 3)
                    die()
            put(store, record_id, key, outcome)

        ResultStore.put = deadly  # type: ignore[method-assign]

    return lay


def die_over_all(name: str) -> Callable[[], None]:
    """Trap: the process is killed when a step over all records is about to begin."""

    def lay() -> None:
        run_set = Runner.run_set

        def deadly(runner: Runner, step: SetStep, records: Any) -> Any:
            if step.name == name:
                die()
            return run_set(runner, step, records)

        Runner.run_set = deadly  # type: ignore[method-assign]

    return lay


def die_in_writing() -> None:
    """Trap: the process is killed while the data set is put together."""
    DatasetWriter._export = lambda *_: die()  # type: ignore[method-assign, assignment]


@pytest.mark.faults
def test_killed_in_every_step_it_goes_on(place: Path, prepared: Path, tmp_path: Path) -> None:
    config = load_prepare_config([str(place / "config.json")])
    steps = [step for _, steps in config.sections.steps() for step in steps]
    output = tmp_path / "out"
    for step in steps:
        trap = die_over_all(step.name) if isinstance(step, SetStep) else die_in_step(step.name, 2)
        assert in_a_fork(place, output, trap) == KILLED, f"{step.name} was not killed"
        assert not output.exists()
    assert in_a_fork(place, output, die_in_writing) == KILLED and not output.exists()
    assert in_a_fork(place, output, lambda: None) == 0
    assert content_of(output) == content_of(prepared)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.work"]


def preempted_in_step(name: str, pids: Path) -> Callable[[], None]:
    """Trap: while workers are busy with a step, the process gets what a preemption sends; `pids` names the workers."""

    def lay() -> None:
        put = ResultStore.put

        def deadly(store: ResultStore, record_id: str, key: str, outcome: Any) -> None:
            put(store, record_id, key, outcome)
            if store.step == name:
                pids.write_text(json.dumps([child.pid for child in active_children()]))
                os.kill(os.getpid(), signal.SIGTERM)

        ResultStore.put = deadly  # type: ignore[method-assign]

    return lay


@pytest.mark.faults
def test_a_preempted_run_leaves_no_lock_and_no_worker(place: Path, prepared: Path, tmp_path: Path) -> None:
    output, pids = tmp_path / "out", tmp_path / "pids.json"
    trap = preempted_in_step("voice", pids)
    assert in_a_fork(place, output, trap, "--workers", "2") == EXIT_SIGNAL_BASE + signal.SIGTERM
    assert (tmp_path / "out.work" / "results").is_dir() and not (tmp_path / "out.work" / WORK_LOCK_FILE).exists()
    workers = json.loads(pids.read_text())
    assert len(workers) == 2 and not any(is_alive(pid) for pid in workers)
    assert in_a_fork(place, output, lambda: None) == 0
    assert content_of(output) == content_of(prepared)


@pytest.mark.faults
def test_two_launched_processes_find_the_same(place: Path, tmp_path: Path) -> None:
    overrides = ["--separate", "null", "--transcribe", "null"]
    alone, two = tmp_path / "alone" / "out", tmp_path / "two" / "out"
    run(place, "--output_dir", str(alone), *overrides)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "helpers" / "accelerate_configs" / "cpu_2_processes.yaml"), "-m", "songgen.cli.main"]
    command += ["prepare", str(place / "config.json"), "--output_dir", str(two), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("songs in") == 1
    assert content_of(two) == content_of(alone)
    assert len(list((tmp_path / "two" / "out.work" / "results").glob("voice.*.jsonl"))) == 2


def test_too_many_damaged_songs_end_without_a_data_set(place: Path, tmp_path: Path) -> None:
    with pytest.raises(TooManyBadSongs, match=r"3 of 20 songs cannot be read \(truncated_audio 1, .*max_bad_fraction"):
        run(place, "--output_dir", str(tmp_path / "out"), "--max_bad_fraction", "0.1")
    assert not (tmp_path / "out").exists()
    assert {row["id"] for row in rows_of(tmp_path / "out.work" / "rejected.jsonl")} == set(BROKEN)


def test_a_folder_with_other_things_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="output_dir: .* holds something that is not a data set"):
        run(place, "--output_dir", str(tmp_path / "out"))


def test_an_output_inside_of_the_songs_is_refused(place: Path) -> None:
    inside = place / "corpus" / "out"
    with pytest.raises(ValueError, match="is inside the input"):
        run(place, "--inputs", str(place / "corpus"), "--output_dir", str(inside))
    assert not inside.with_name("out.work").exists()


def test_a_changed_setting_redoes_what_depends_on_it_alone(place: Path, prepared: Path, tmp_path: Path) -> None:
    results = place / "out.work" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    summary = run(place, "--filter.max_seconds", "6")
    assert summary.is_changed
    changed = {path.name.split(".")[0] for path in results.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert "filter" in changed and not changed & {"take_in", "separate", "voice", "transcribe", "segment", "measure"}
    assert run(place).is_changed


@pytest.mark.faults
def test_songs_beyond_a_limit_are_not_damaged(place: Path, tmp_path: Path) -> None:
    """Nearly all songs are shorter than the limit, three of twenty are broken."""
    overrides = [
        "--take_in.min_seconds",
        "15",
        "--max_bad_fraction",
        "0.2",
        "--separate",
        "null",
        "--transcribe",
        "null",
    ]
    summary = run(place, "--output_dir", str(tmp_path / "out"), *overrides)
    assert summary.info.refused["too_short"] > 10
