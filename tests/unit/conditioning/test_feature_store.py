"""Features on disk: complete or absent, verified, bounded, separate for each encoder."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from songgen.conditioning.feature_store import FeatureStore, default_folder


def features(*keys: str, rows: int = 3) -> dict[str, Tensor]:
    return {key: torch.full((rows, 4), float(index)) for index, key in enumerate(keys)}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_read_by_every_process(tmp_path: Path) -> None:
    FeatureStore(tmp_path, "encoder").write(features("a", "b"))
    FeatureStore(tmp_path, "encoder").write({"c": torch.ones(2, 4, dtype=torch.bfloat16)})
    found = FeatureStore(tmp_path, "encoder").read(["a", "c", "absent"])
    assert sorted(found) == ["a", "c"] and found["c"].dtype == torch.bfloat16
    assert torch.equal(found["a"], features("a")["a"])


def test_another_encoder_does_not_share(tmp_path: Path) -> None:
    FeatureStore(tmp_path, "encoder on a CPU").write(features("a"))
    assert FeatureStore(tmp_path, "encoder on a GPU").read(["a"]) == {}
    assert FeatureStore(tmp_path / "absent", "encoder").read(["a"]) == {}


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "other"])
def test_a_damaged_file_counts_as_absent_and_is_removed(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path, "encoder")
    store.write(features("a", "b"))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"bit": bytes(content), "cut": content[:-9], "empty": b"", "other": b"{}" * 50}[damage])
    assert store.read(["a"]) == {} and "damaged" in caplog.text
    assert not files(tmp_path)
    store.write(features("a"))
    assert list(store.read(["a"])) == ["a"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        FeatureStore(tmp_path, "encoder").write(features("a"))
    assert not files(tmp_path)


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    first, second = FeatureStore(tmp_path, "one"), FeatureStore(tmp_path, "two")
    first.write(features("a", rows=100))
    second.write(features("b", rows=100))
    size = files(tmp_path)[0].stat().st_size
    past = time.time() - 1000
    for path in files(tmp_path):
        os.utime(path, (past, past))
    assert first.read(["a"])  # used now
    FeatureStore(tmp_path, "three", max_bytes=2 * size + 200).write(features("c", rows=100))
    assert first.read(["a"]) and not second.read(["b"])
    FeatureStore(tmp_path, "three", max_bytes=10).write(features("d", rows=100))
    assert list(FeatureStore(tmp_path, "three").read(["a", "c", "d"])) == ["d"], "the newest stays"


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "encoder")
    store.write(features("a"))
    old, new = store.folder / "old.tmp", store.folder / "new.tmp"
    for path in (old, new):
        path.write_bytes(b"part")
    past = time.time() - 2 * 24 * 3600
    os.utime(old, (past, past))
    store.write(features("b"))
    assert not old.exists() and new.exists()
    assert sorted(store.read(["a", "b"])) == ["a", "b"]


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "songgen" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "songgen" / "features"
