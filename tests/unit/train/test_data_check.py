"""Shards are read once, by one process each, and again only when they are new or changed."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from forked import fork_run
from launching import make_world, write_config
from training_fakes import write_dataset, write_model_folder

from songgen.config import DataArguments
from songgen.data import integrity as data_check
from songgen.data import shards
from songgen.data.dataset import REBUILD_HINT
from songgen.data.integrity import VERIFIED_FILE, require_intact_data

NAMES = [f"train/data-{number:05d}.arrow" for number in range(4)]


@pytest.fixture
def data(tmp_path: Path) -> DataArguments:
    """A data set of four shards; the output folder is `tmp_path`."""
    write_model_folder(tmp_path / "model")
    write_dataset(tmp_path / "data", tmp_path / "model", 8, 4, num_shards=4)
    return DataArguments(save_to_disk=str(tmp_path / "data"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that were read, in any order."""
    names: list[str] = []
    original = shards.file_sha256

    def count(path: Path) -> str:
        names.append(f"{path.parent.name}/{path.name}")
        return original(path)

    monkeypatch.setattr(shards, "file_sha256", count)
    return names


def check(data: DataArguments, folder: Path) -> None:
    require_intact_data(data.dataset_folders(), ["train"], folder, rank=0, world_size=1)


def test_a_shard_is_read_again_only_when_it_was_changed(data: DataArguments, tmp_path: Path, read: list[str]) -> None:
    check(data, tmp_path)
    assert sorted(read) == NAMES
    read.clear()
    check(data, tmp_path)
    assert read == []
    os.utime(tmp_path / "data" / NAMES[2], ns=(1, 1))
    check(data, tmp_path)
    assert read == [NAMES[2]]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"somewhere": 1}'])
def test_a_damaged_record_only_costs_time(data: DataArguments, tmp_path: Path, read: list[str], content: str) -> None:
    check(data, tmp_path)
    (tmp_path / VERIFIED_FILE).write_text(content)
    read.clear()
    check(data, tmp_path)
    assert sorted(read) == NAMES


def test_damage_is_found_again_at_each_start(data: DataArguments, tmp_path: Path, read: list[str]) -> None:
    """Intact shards beside it are remembered, the damaged one is not."""
    path = tmp_path / "data" / NAMES[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        read.clear()
        with pytest.raises(ValueError, match="is damaged") as raised:
            check(data, tmp_path)
        assert f"- {NAMES[1]}: its content is not what was written" in str(raised.value)
        assert REBUILD_HINT in str(raised.value) and NAMES[0] not in str(raised.value)
    assert read == [NAMES[1]]


def test_progress_is_told_and_kept_after_each_round(
    data: DataArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A start that is interrupted has not read in vain."""
    monkeypatch.setattr(data_check, "ROUND_BYTES", 1)
    original = shards.file_sha256

    def fail_at_the_third(path: Path) -> str:
        if path.name == Path(NAMES[2]).name:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(shards, "file_sha256", fail_at_the_third)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        check(data, tmp_path)
    assert sum("GB verified" in message for message in caplog.messages) == 2
    record = (tmp_path / VERIFIED_FILE).read_text()
    assert [name for name in NAMES if name in record] == NAMES[:2]


def test_a_data_set_that_is_replaced_meanwhile_is_read_anew(
    data: DataArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preprocessing may end while a run starts: what it wrote counts."""
    newer = write_dataset(tmp_path / "newer", tmp_path / "model", 12, 4, num_shards=4)
    replaced: list[Path] = []
    original = shards.file_sha256

    def replace_first(path: Path) -> str:
        if not replaced:
            replaced.append(path)
            shutil.rmtree(tmp_path / "data")
            newer.rename(tmp_path / "data")
        return original(path)

    monkeypatch.setattr(data_check, "HASHING_THREADS", 1)
    monkeypatch.setattr(shards, "file_sha256", replace_first)
    check(data, tmp_path)
    assert replaced


def test_the_processes_share_the_shards(tmp_path: Path) -> None:
    world = make_world(tmp_path, num_train=8)
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=1)

    def note(rank: int) -> None:
        original = shards.file_sha256

        def read(path: Path) -> str:
            with (tmp_path / f"read-{rank}").open("a") as file:
                file.write(f"{path}\n")
            return original(path)

        shards.file_sha256 = read  # type: ignore[assignment]  # in a child process

    fork_run(config, tmp_path / "log", processes=2, hook=note).finish()
    shares = [(tmp_path / f"read-{rank}").read_text().splitlines() for rank in range(2)]
    files = [str(path) for path in (world / "data").rglob("*.arrow")]
    assert sorted(shares[0] + shares[1]) == sorted(files) and all(shares)
