import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from songgen.conditioning import FeatureCache


def features(value: float, size: int = 256) -> dict[str, torch.Tensor]:
    return {"states": torch.full((size,), float(value))}


def value_of(cache: FeatureCache, key: str) -> float | None:
    found = cache.get(key)
    return None if found is None else float(found["states"][0])


def key(number: int) -> str:
    return FeatureCache.key("encoder", bytes([number]))


def test_keys_tell_encoders_and_contents_apart() -> None:
    pairs = [("a", b"1"), ("a", b"2"), ("b", b"1"), ("a1", b""), ("", b"a1")]
    assert len({FeatureCache.key(*pair) for pair in pairs}) == len(pairs)


def test_the_least_recently_used_goes_first() -> None:
    cache = FeatureCache(3 * 1024)
    for number in range(3):
        cache.put(key(number), features(number))
    assert value_of(cache, key(0)) == 0
    cache.put(key(3), features(3))
    assert [value_of(cache, key(number)) for number in range(4)] == [0, None, 2, 3]
    assert cache.num_bytes == 3 * 1024 and (cache.hits, cache.misses) == (4, 1)


def test_what_is_larger_than_the_limit_is_not_kept_and_evicts_nothing() -> None:
    cache = FeatureCache(1024)
    cache.put(key(0), features(0))
    cache.put(key(1), features(1, size=257))
    assert value_of(cache, key(0)) == 0 and value_of(cache, key(1)) is None


def test_replacing_counts_once() -> None:
    cache = FeatureCache(4096)
    for value in (1, 2):
        cache.put(key(0), features(value))
    assert value_of(cache, key(0)) == 2 and cache.num_bytes == 1024


@pytest.mark.parametrize("max_bytes", [0, 10**6])
def test_callers_cannot_change_what_is_kept(tmp_path: Path, max_bytes: int) -> None:
    cache = FeatureCache(max_bytes, folder=tmp_path)
    own = features(1)
    cache.put(key(0), own)
    own["states"].zero_()
    for _ in range(2):
        found = cache.get(key(0))
        assert found is not None and found["states"].eq(1).all()
        found["states"].zero_()


def test_a_folder_outlives_the_process(tmp_path: Path) -> None:
    FeatureCache(0, folder=tmp_path).put(key(0), features(5))
    assert value_of(FeatureCache(10**6, folder=tmp_path), key(0)) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_of_another_item_is_a_miss(tmp_path: Path) -> None:
    cache = FeatureCache(0, folder=tmp_path)
    cache.put(key(0), features(0))
    path = cache._path(key(1))
    path.parent.mkdir(exist_ok=True)
    os.replace(cache._path(key(0)), path)
    assert cache.get(key(1)) is None and cache.get(key(0)) is None


def test_damaged_and_foreign_files_are_misses(tmp_path: Path) -> None:
    cache = FeatureCache(0, folder=tmp_path)
    cache.put(key(0), features(0))
    path = cache._path(key(0))
    path.write_bytes(path.read_bytes()[:100])
    assert cache.get(key(0)) is None
    save_file(features(9), path)
    assert cache.get(key(0)) is None
    cache.put(key(0), features(1))
    assert value_of(cache, key(0)) == 1


def test_the_folder_keeps_to_its_limit(tmp_path: Path) -> None:
    cache = FeatureCache(0, folder=tmp_path, max_folder_bytes=5000)
    for number in range(10):
        cache.put(key(number), features(number))
        os.utime(cache._path(key(number)), (number, number))
    files = list(tmp_path.rglob("*.safetensors"))
    assert 0 < sum(path.stat().st_size for path in files) <= 5000
    assert value_of(cache, key(9)) == 9 and value_of(cache, key(0)) is None


def test_a_folder_that_cannot_be_written_to_leaves_the_memory(tmp_path: Path) -> None:
    cache = FeatureCache(10**6, folder=tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    cache.put(key(0), features(3))
    assert value_of(cache, key(0)) == 3
    with pytest.raises(ValueError, match="cannot use the folder"):
        FeatureCache(0, folder=tmp_path / "cache" / "x")
    with pytest.raises(ValueError, match="negative"):
        FeatureCache(-1)
