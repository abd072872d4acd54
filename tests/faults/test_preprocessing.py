"""Cases 22 and 23: preprocessing that is killed anywhere, and preprocessing whose program has changed."""

import ast
import json
import multiprocessing
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intact_data import open_intact
from limits import SAFETY_SECONDS
from preprocess_fakes import (
    ROOT,
    FakeCodec,
    launch,
    options_for,
    read_manifest,
    run,
    shard_hashes,
    write_corpus,
    write_manifest,
)

from songgen.data.dataset import SongDataset
from songgen.data.manifests import sources
from songgen.tokenize import settings

NUM_CLIPS = 21
NUM_RANDOM_KILLS = 8
FORK = multiprocessing.get_context("fork")

FINISHING_EVENTS = 6
"""Last file operations of a run, each of which is killed: the data set takes its place, leftovers go."""

FILE_OPERATIONS = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"})


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The manifest of a corpus, and one of its first clips only."""
    whole = write_corpus(tmp_path_factory.mktemp("corpus"), NUM_CLIPS)
    part = whole.with_name("part.jsonl")
    write_manifest(part, read_manifest(whole)[:9])
    return whole, part


@pytest.fixture(scope="module")
def clean(corpora: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("clean") / "songs"
    run(options_for(corpora[0], folder))
    return shard_hashes(folder)


def forked(action: Callable[[], object]) -> int | None:
    """Do something in a child that has everything imported; return its exit code."""

    def body() -> None:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        action()
        os._exit(0)

    child = FORK.Process(target=body)
    child.start()
    child.join(SAFETY_SECONDS)
    return child.exitcode


def watch_file_operations(
    folder: Path, at: Callable[[int], object], operations: frozenset[str] = FILE_OPERATIONS
) -> None:
    """Call `at` with the number of each file operation of this process below a folder, before it happens."""
    numbers = iter(range(10**9))
    busy = threading.Lock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in operations or not any(str(folder) in str(argument) for argument in arguments):
            return
        if busy.acquire(blocking=False):  # not for what `at` itself does
            try:
                at(next(numbers))
            finally:
                busy.release()

    sys.addaudithook(hook)


def count_file_operations(manifest: Path, output: Path) -> int:
    """How many file operations a run makes."""
    report = output.parent.with_suffix(".count")

    def action() -> None:
        watch_file_operations(output.parent, lambda number: report.write_text(str(number + 1)))
        run(options_for(manifest, output))

    assert forked(action) == 0
    return int(report.read_text())


def run_killed(manifest: Path, output: Path, number: int) -> None:
    """Run until the file operation of that number, and be killed before it."""

    def action() -> None:
        watch_file_operations(output.parent, lambda found: os.kill(os.getpid(), 9) if found == number else None)
        run(options_for(manifest, output))

    assert forked(action) == -9, "the run ended before it could be killed"


@pytest.mark.case(22)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_half_way_goes_on_with_any_number_of_processes(
    corpora: tuple[Path, Path], clean: dict[str, str], tmp_path: Path, processes: int
) -> None:
    """Chunks have 8 rows and batches 3, with 3 tracks: the 13th call of the codec is in the second chunk."""
    output = tmp_path / "songs"
    assert launch(corpora[0], output, kill_at=13).returncode == -9
    assert not output.exists(), "a reader never sees a half data set"
    if processes == 1:
        codec = FakeCodec()
        run(options_for(corpora[0], output), codec)
        assert codec.num_clips == (NUM_CLIPS - 8) * 3, "the finished chunk is not encoded again"
    else:
        result = launch(corpora[0], output, processes=2)
        assert result.returncode == 0, result.stderr
    assert shard_hashes(output) == clean
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


@pytest.mark.case(22)
@pytest.mark.parametrize("exchange", [True, False], ids=["exchanging", "renaming"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_data_set_and_the_next_run_ends_clean(
    corpora: tuple[Path, Path],
    clean: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: bool,
) -> None:
    """A data set of fewer clips stands already; where folders cannot be exchanged, it may be away for a moment."""
    whole, part = corpora
    if not exchange:
        monkeypatch.setattr("songgen.tokenize.finalize.exchange_folders", lambda *_: False)
    run(options_for(part, tmp_path / "old" / "songs"))
    shutil.copytree(tmp_path / "old", tmp_path / "counted")
    total = count_file_operations(whole, tmp_path / "counted" / "songs")
    assert total > 30
    randomly = random.Random(22).sample(range(total - FINISHING_EVENTS), NUM_RANDOM_KILLS)
    for number in sorted([*randomly, *range(total - FINISHING_EVENTS, total)]):
        folder = tmp_path / f"kill{number}"
        shutil.copytree(tmp_path / "old", folder)
        run_killed(whole, folder / "songs", number)
        if exchange:
            assert len(open_intact(folder / "songs", "train")) in (9, NUM_CLIPS)
        run(options_for(whole, folder / "songs"))
        assert shard_hashes(folder / "songs") == clean, f"killed before file operation {number} of {total}"
        assert [path.name for path in folder.iterdir()] == ["songs"], "nothing is left over"


@pytest.mark.case(22)
def test_a_reader_sees_a_whole_data_set_before_every_file_operation(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    """A training that is just being started may look at any moment: at the old songs, later at the new ones."""
    whole, part = corpora
    output, log = tmp_path / "songs", tmp_path.with_suffix(".seen")
    run(options_for(part, output))

    def look() -> None:
        try:
            songs = open_intact(output, "train")
            seen = [songs.row(index).id for index in range(len(songs))]
        except Exception as error:
            seen = [f"{type(error).__name__}: {error}"]
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")

    def action() -> None:
        watch_file_operations(tmp_path, lambda number: look(), FILE_OPERATIONS | {"open"})
        run(options_for(whole, output))

    assert forked(action) == 0
    looks = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    names = [f"clip{index:03d}" for index in range(NUM_CLIPS)]
    assert len(looks) > 100 and looks[0] == names[:9] and looks[-1] == names
    assert all(seen in (names[:9], names) for seen in looks)


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path} has changed: choose another edit"
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.case(23)
def test_an_edited_helper_makes_the_songs_anew(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    """The package is copied, run, edited in a function that another module calls, and run again."""
    shutil.copytree(ROOT / "songgen", tmp_path / "package" / "songgen", ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path / "songs"

    def energy() -> float | None:
        result = launch(corpora[1], output, package=tmp_path / "package")
        assert result.returncode == 0, result.stderr
        return SongDataset.open(output, "train").row(0).energies["vocal"]

    before = energy()
    edit(
        tmp_path / "package/songgen/data/sound/levels.py",
        "dtype=np.float64)))) * INT16_SCALE",
        "dtype=np.float64)))) * INT16_SCALE * 3",
    )
    after = energy()
    assert before is not None and after == pytest.approx(3 * before)


NOT_IN_THE_DIGEST = {
    "conditioning/__init__.py": "names only",
    "conditioning/text_encoder.py": "training only",
    "conditioning/voice_encoder.py": "training only",
    "conditioning/cache.py": "training only",
    "conditioning/frozen.py": "training only",
    "conditioning/voice_weights.py": "training only",
    "config/__init__.py": "values arrive in the options, which are in the fingerprint",
    "data/manifests/manifest.py": "rows are part of each chunk's key",
    "data/manifests/paths.py": "rows are part of each chunk's key",
    "data/manifests/row_index.py": "rows are part of each chunk's key",
    "data/manifests/sources.py": "rows are part of each chunk's key",
    "exit_codes.py": "says how the program ends",
    "models/configuration_songgen.py": "names codec and tokenizers, whose fingerprints count",
    "runtime/file_hashes.py": "compares files with their hashes",
    "runtime/files.py": "moves and hashes files",
    "runtime/json_files.py": "reads files",
    "runtime/json_lines.py": "reads and writes lines with checksums",
    "runtime/pretrained.py": "finds codec and tokenizers, whose fingerprints count",
    "runtime/records.py": "reads records",
    "runtime/status.py": "says how far the work has come",
    "runtime/tensor_files.py": "reads codecs, whose fingerprints count",
    "runtime/terminal.py": "prints",
    "tokenize/encoders.py": "opens codec and tokenizers, whose fingerprints count",
    "tokenize/options.py": "the options themselves are in the fingerprint",
    "tokenize/workspace.py": "moves files only",
}
"""Modules that `tokenize/chunks.py` reaches, and why an edit in them need not invalidate chunks."""


def imported_files(path: Path) -> set[Path]:
    """Modules of the package that a file imports, also inside of functions."""
    package = ROOT / "songgen"
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "songgen" and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in (str(node.module), *names):
                place = package.joinpath(*name.split(".")[1:])
                found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return found - {package / "__init__.py"}


@pytest.mark.case(23)
def test_every_module_that_makes_rows_counts() -> None:
    package = ROOT / "songgen"
    counted = set(settings.code_files(settings.CODE))
    reached, waiting = set(), [package / "tokenize" / "chunks.py"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            # Behind a module that does not count, nothing is followed.
            if path.relative_to(package).as_posix() not in NOT_IN_THE_DIGEST:
                waiting.extend(imported_files(path))
    missing = {path.relative_to(package).as_posix() for path in reached - counted} - set(NOT_IN_THE_DIGEST)
    assert not missing, "add them to CODE in songgen/tokenize/settings.py, or say here why they do not count"


@pytest.mark.case(23)
@pytest.mark.parametrize(
    "name", ["data/sound/levels.py", "codecs/spectral.py", "lyrics/numbers.py", "tokenize/text.py"]
)
def test_an_edit_in_any_of_them_changes_the_digest(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "songgen", tmp_path / "songgen", ignore=shutil.ignore_patterns("__pycache__"))
    before = settings.code_fingerprint(settings.CODE, tmp_path / "songgen")
    assert before == settings.code_fingerprint(settings.CODE)
    with (tmp_path / "songgen" / name).open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert settings.code_fingerprint(settings.CODE, tmp_path / "songgen") != before


def flip_bit(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.case(22)
@pytest.mark.parametrize("place", [0.05, 0.5, 0.95])
def test_no_flipped_bit_of_a_work_folder_reaches_the_data_set(
    corpora: tuple[Path, Path], clean: dict[str, str], tmp_path: Path, place: float
) -> None:
    """All chunks are encoded, the data set is not there yet; then any file is damaged, and the run started again."""
    total = count_file_operations(corpora[0], tmp_path / "counted" / "songs")
    run_killed(corpora[0], tmp_path / "half" / "songs", total - FINISHING_EVENTS - 13)
    work = tmp_path / "half" / "songs.work"
    names = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    names.remove("lock.json")  # a flip in it may name another owner: the run is refused, and says so
    assert sum(name.endswith(".arrow") for name in names) == 3 and "settings.json" in names
    run(options_for(corpora[0], tmp_path / "clean"))
    report = json.loads((tmp_path / "clean" / "report.json").read_text())
    for number, name in enumerate(names):
        output = tmp_path / str(number) / "songs"
        shutil.copytree(work, tmp_path / str(number) / "songs.work")
        if (output.with_name("songs.work") / name).stat().st_size:
            flip_bit(output.with_name("songs.work") / name, place)
        run(options_for(corpora[0], output))
        assert shard_hashes(output) == clean, name
        assert json.loads((output / "report.json").read_text()) == report, name


@pytest.mark.case(22)
def test_damage_to_a_finished_data_set_is_not_carried_into_the_next_one(
    corpora: tuple[Path, Path], clean: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its records tell which shards are reused; one that is damaged is named, and its chunk encoded again."""
    output = tmp_path / "songs"
    run(options_for(corpora[0], output))
    for place in (0.1, 0.5, 0.9):
        flip_bit(output / "chunks.jsonl", place)
        run(options_for(corpora[0], output))
        assert "; these chunks are encoded again" in caplog.text and "chunks.jsonl:" in caplog.text
        assert shard_hashes(output) == clean
        caplog.clear()


def test_audio_of_an_earlier_run_is_compared_before_it_is_used_again(tmp_path: Path) -> None:
    audio = {"bytes": b"RIFF" + bytes(1000), "path": "song.wav"}
    path = Path(sources._spool(audio, tmp_path) or "")
    flip_bit(path, 0.5)
    assert sources._spool(audio, tmp_path) == str(path) and path.read_bytes() == audio["bytes"]
