"""Features of all captions of a run, computed once: kept on disk between runs, and in memory during one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import transformers

from songgen.conditioning import CaptionEncoder, FeatureCache, FeatureStore
from songgen.conditioning.feature_store import MAX_BYTES, FeatureWriter, default_folder
from songgen.conditioning.frozen import FrozenEncoder
from songgen.config import RunConfig
from songgen.data.samples import TrainingSamples
from songgen.families.songs import Processes
from songgen.runtime.processes.agreement import all_succeeded

TEXT_CACHE_BYTES = 1024**3
"""Largest total size of all captions' features for which they are kept in memory."""

logger = logging.getLogger(__name__)

Caption = tuple[int, ...]


def feature_folder(config: RunConfig) -> Path | None:
    """Return the folder in which features of captions are kept between runs; None to keep none."""
    named = config.data.feature_cache_dir
    if named is None:
        return default_folder()
    return Path(named) if named else None


def cache_captions(
    encoder: CaptionEncoder,
    data: Sequence[TrainingSamples],
    processes: Processes,
    folder: Path | None,
    max_bytes: int = MAX_BYTES,
) -> bool:
    """Compute the features of all captions once, if they fit into memory: they are the same in every epoch.

    Each caption is encoded by itself. In a batch, the last bits of its features would depend on the other captions, and
    a resumed run, which sees captions in other batches first, would differ from an uninterrupted one. Every process
    must call this. Each encodes its share of the captions missing in the store, and reads the others from there.

    Args:
        encoder: text encoder, which gets a cache with all features.
        data: clips to train and to evaluate on.
        processes: place of this process in the launch.
        folder: folder of features kept between runs; None to keep none, then every process encodes all captions.
        max_bytes: most bytes that all features below the folder may take.

    Returns:
        Whether the encoder has the features of all captions, so that it needs its network for none of them.
    """
    size = sum(int(part.dataset.caption_lengths().sum()) for part in data)
    size += sum(int(part.dataset.variant_lengths().sum()) for part in data if part.varies_captions)
    size *= encoder.hidden_size * encoder.dtype.itemsize
    fits = size <= TEXT_CACHE_BYTES
    decision = "computed once" if fits else "computed for each batch"
    logger.info("features of all captions take %.1f MB: %s", size / 1e6, decision)
    if not fits:
        return False
    encoder.cache = FeatureCache(2 * TEXT_CACHE_BYTES)
    captions = _captions(data)
    if folder is not None:
        store = FeatureStore(folder, computed_by(encoder), max_bytes=max_bytes)
        found = _read(encoder, store, captions)
        # Shares of the whole list, not of the missing captions: those may differ between processes, since another one
        # may have stored its share already.
        share = [caption for caption in captions[processes.rank :: processes.world_size] if caption not in found]
        _encode_and_store(encoder, store, share)
        logger.info("%d of %d captions encoded by this process; features are in %s", len(share), len(captions), folder)
        all_succeeded(True)  # waits until every process has stored its share
        captions = [caption for caption in captions if caption not in found.union(share)]
        found = _read(encoder, store, captions)
        captions = [caption for caption in captions if caption not in found]
    # Captions that the store lacks: all without a store, and shares of other processes that could not be written, or
    # are on a disk that this process does not see.
    for caption in captions:
        encoder.encode(torch.tensor([caption]))
    return True


def _captions(data: Sequence[TrainingSamples]) -> list[Caption]:
    """Return the token ids of all captions of a run, each once, in the same order on all processes."""
    captions = {tuple(part.options.empty_caption_ids) for part in data}
    for part in data:
        for row in map(part.dataset.row, range(len(part.dataset))):
            texts = [row.caption_ids, *(row.caption_variants if part.varies_captions else ())]
            captions.update(tuple(ids.tolist()) for ids in texts)
    return sorted(captions)


def computed_by(encoder: FrozenEncoder) -> str:
    """Describe everything that the exact bits of features depend on: encoder, device and libraries."""
    device = encoder.device
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{encoder.fingerprint}; {device.type} {machine}; {versions}; {torch.get_float32_matmul_precision()}"


def _read(encoder: CaptionEncoder, store: FeatureStore, captions: Iterable[Caption]) -> set[Caption]:
    """Load stored features into the encoder's cache; return the captions found."""
    assert encoder.cache is not None
    keys = {encoder.key_of(torch.tensor(caption)): caption for caption in captions}
    found = set()
    for key, states in store.read(keys).items():
        if states.shape == (len(keys[key]), encoder.hidden_size) and states.dtype == encoder.dtype:
            encoder.cache.put(key, {"states": states})
            found.add(keys[key])
    return found


def _encode_and_store(encoder: CaptionEncoder, store: FeatureStore, captions: Sequence[Caption]) -> None:
    """Encode captions one by one and store their features."""
    with FeatureWriter(store, "captions") as writer:
        for caption in captions:
            ids = torch.tensor(caption)
            writer.add(encoder.key_of(ids), encoder.encode(ids[None])[0])
