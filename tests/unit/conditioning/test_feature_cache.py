import torch

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
    assert cache.num_bytes == 3 * 1024


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


def test_callers_cannot_change_what_is_kept() -> None:
    cache, own = FeatureCache(10**6), features(1)
    cache.put(key(0), own)
    own["states"].zero_()
    for _ in range(2):
        found = cache.get(key(0))
        assert found is not None and found["states"].eq(1).all()
        found["states"].zero_()
