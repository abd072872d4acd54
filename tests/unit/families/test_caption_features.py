"""Captions are encoded once, by whichever process, and read by all later ones, with the same bits."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import SAFETY_SECONDS
from torch import Tensor
from training_fakes import TEXT_IDS, TEXT_WIDTH, write_dataset, write_model_folder

from songgen.conditioning import TextEncoder, feature_store
from songgen.data.dataset import SongDataset
from songgen.data.samples import SampleOptions, TrainingSamples
from songgen.families import caption_features
from songgen.families.caption_features import cache_captions
from songgen.families.songs import Processes


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingSamples]:
    """Five training clips with variants of their captions, two for evaluation."""
    folder = tmp_path_factory.mktemp("captions")
    write_dataset(folder / "data", write_model_folder(folder / "model"), 5, 2)
    options = SampleOptions(caption_variants=0.5)
    return [
        TrainingSamples(SongDataset.open(folder / "data", split), options, ("mix",), seed=0)
        for split in ("train", "eval")
    ]


class CountingEncoder(TextEncoder):
    """Notes the captions that are encoded."""

    def _compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.__dict__.setdefault("encoded", []).append(tuple(ids[0].tolist()))
        assert len(ids) == 1, "each caption is encoded by itself"
        return super()._compute(ids, mask)


def make_encoder(seed: int = 0) -> Any:
    encoder: Any = CountingEncoder.small(TEXT_IDS, d_model=TEXT_WIDTH, num_layers=1, num_heads=2, seed=seed)
    encoder.encoded = []
    return encoder


def start(samples: list[TrainingSamples], folder: Path | None, seed: int = 0) -> Any:
    encoder = make_encoder(seed)
    cache_captions(encoder, samples, Processes(0, 1), folder)
    return encoder


def known(encoder: Any, captions: list[tuple[int, ...]]) -> list[Tensor]:
    """Features of captions; none of them may be encoded for this."""
    before = len(encoder.encoded)
    features = [encoder.encode(torch.tensor([caption])) for caption in captions]
    assert len(encoder.encoded) == before
    return features


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_a_second_start_encodes_nothing_and_has_the_same_bits(samples: list[TrainingSamples], tmp_path: Path) -> None:
    alone = start(samples, None)
    first, second = start(samples, tmp_path), start(samples, tmp_path)
    assert first.encoded == alone.encoded and len(first.encoded) > 8 and not second.encoded
    results = [known(encoder, alone.encoded) for encoder in (alone, first, second)]
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_file_is_encoded_again(samples: list[TrainingSamples], tmp_path: Path) -> None:
    first = start(samples, tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    second = start(samples, tmp_path)
    assert second.encoded == first.encoded
    assert same(known(second, first.encoded), known(first, first.encoded))
    assert not start(samples, tmp_path).encoded


def test_another_encoder_does_not_share(samples: list[TrainingSamples], tmp_path: Path) -> None:
    first, other = start(samples, tmp_path), start(samples, tmp_path, seed=1)
    assert other.encoded == first.encoded
    assert not same(known(other, first.encoded), known(first, first.encoded))


def test_new_captions_alone_are_encoded(samples: list[TrainingSamples], tmp_path: Path) -> None:
    evaluation = start(samples[1:], tmp_path)
    both = start(samples, tmp_path)
    assert both.encoded and not set(both.encoded) & set(evaluation.encoded)


@pytest.mark.parametrize("stored", [True, False])
def test_two_processes_are_as_one(
    samples: list[TrainingSamples], tmp_path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each encodes its half and reads the other's; where nothing can be stored, each encodes all."""
    alone = start(samples, None)
    if not stored:
        (tmp_path / "features").write_text("a file where the folder should be")
    barrier = threading.Barrier(2)
    encoders = [make_encoder(), make_encoder()]
    monkeypatch.setattr(feature_store, "FILE_BYTES", 200)  # several files
    monkeypatch.setattr(caption_features, "all_succeeded", lambda _: barrier.wait())

    def process(rank: int) -> None:
        cache_captions(encoders[rank], samples, Processes(rank, 2), tmp_path / "features")

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=SAFETY_SECONDS)
    counts = [len(encoder.encoded) for encoder in encoders]
    if stored:
        assert sorted(encoders[0].encoded + encoders[1].encoded) == alone.encoded and min(counts) > 0
    else:
        assert counts == [len(alone.encoded)] * 2
    for encoder in encoders:
        assert same(known(encoder, alone.encoded), known(alone, alone.encoded))


def test_captions_that_do_not_fit_into_memory_are_not_kept(
    samples: list[TrainingSamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_features, "TEXT_CACHE_BYTES", 10)
    encoder = start(samples, tmp_path)
    assert encoder.cache is None and not encoder.encoded and not list(tmp_path.iterdir())
