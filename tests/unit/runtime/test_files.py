"""Files that appear whole."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from songgen.runtime import files
from songgen.runtime.files import exchange_folders, file_sha256, free_bytes, write_text_atomic


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole_and_nothing_else_stays(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.json"
    for text in ("one", "zwei: ü"):
        write_text_atomic(path, text, durable=durable)
        assert path.read_text(encoding="utf-8") == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_disk_that_fails_leaves_the_old_content_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text_atomic(path, "old")

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "synchronize", fail)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_folders_are_exchanged_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchanged = exchange_folders(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / ("b" if exchanged else "a")).exists()
    assert not exchange_folders(tmp_path / "a", tmp_path / "absent")


def test_a_folder_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0 == free_bytes(tmp_path / "absent")


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def write(text: str) -> None:
        for _ in range(50):
            write_text_atomic(path, text, durable=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))  # raises what a thread has raised
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"] and path.read_text() in ("one", "two")
