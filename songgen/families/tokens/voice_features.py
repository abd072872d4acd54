"""Features of all reference voices of a run with fixed crops, computed once and kept on disk.

The voice encoder attends over a whole crop and normalizes its loudness, so features of a crop cannot be cut out of
those of a longer voice. Hence the crops are fixed, and each is encoded by itself.

Hidden states of all layers are large: 25 layers of MERT take 23 MB for 3 s (float32). If their mixture is not trained,
as with adapters or a frozen group `voice_aggregation`, the mixture is stored in their place, which takes 0.9 MB.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from songgen.conditioning import FeatureStore
from songgen.conditioning.feature_store import FeatureWriter
from songgen.conditioning.voice_encoder import StoredVoices
from songgen.data.collate import voice_samples
from songgen.data.samples import TrainingSamples
from songgen.families.caption_features import computed_by
from songgen.families.songs import Processes
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.processes.agreement import all_succeeded

logger = logging.getLogger(__name__)


_Place = tuple[int, int, int]
"""Number of a data set, of a clip in it, and of a voice of the clip."""


@dataclass(frozen=True)
class FeatureFolder:
    """Folder of features that runs share."""

    path: Path
    """The folder."""
    max_bytes: int
    """Most bytes in it."""


def store_voices(
    core: SongGenForConditionalGeneration,
    data: Sequence[TrainingSamples],
    processes: Processes,
    folder: FeatureFolder,
    dtype: str,
) -> None:
    """Compute the features of all reference voices that the folder lacks, and let the voice encoder look them up.

    Every process must call this, before it computes its share and after.

    Args:
        core: model on its device.
        data: clips to train and to evaluate on, with fixed crops.
        processes: place of this process in the launch.
        folder: where features are kept.
        dtype: precision of the computation. Features are stored in it, since they are rounded to it anyway.

    Raises:
        ValueError: if the folder has no room for the features.
    """
    encoder = core.voice_encoder
    precision = getattr(torch, dtype)
    mixes = _mixture_is_constant(core)

    def mix(states: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(states.device.type, precision, enabled=dtype != "float32"):
            return core.mix_voice_layers(states)

    stored = StoredVoices({}, precision, mix if mixes else None)
    layers = 1 if mixes else encoder.num_layers
    frame_bytes = layers * encoder.hidden_size * precision.itemsize
    voices, size = dict[str, _Place](), 0
    for key, place, samples in _voices(core, data):
        if key not in voices:
            voices[key] = place
            size += int(encoder.num_frames(samples)) * frame_bytes
        if size > folder.max_bytes:  # said before anything is computed, and before all of a large data set is read
            raise ValueError(
                f"the features of the first {len(voices):,} voices already take {size / 1024**3:.2f} GiB, more than "
                f"feature_cache_gib {folder.max_bytes / 1024**3:g} allows: raise it, lower voice_feature_crops, "
                + "freeze voice_aggregation (the mixture of the layers is then stored in their place), " * (not mixes)
                + "or set voice_feature_crops to 0"
            )
    what = "mixtures of the layers" if mixes else f"{layers} layers"
    logger.info("features of %d voices (%s, %s) take %.1f MB on disk", len(voices), what, dtype, size / 1e6)
    store = FeatureStore(folder.path, _computed_by(core, stored), max_bytes=folder.max_bytes)
    known = store.find(voices)
    share = [key for key in sorted(voices)[processes.rank :: processes.world_size] if key not in known]
    with FeatureWriter(store, "voices") as writer:
        for key in share:
            part, index, number = voices[key]
            voice = torch.from_numpy(voice_samples(data[part].fixed_voices(index)[number]))
            writer.add(key, encoder.compute_alone(voice, stored))
    logger.info("%d of %d voices encoded by this process; features are in %s", len(share), len(voices), folder.path)
    all_succeeded(True)  # waits until every process has stored its share
    encoder.stored = StoredVoices(store.find(voices), stored.dtype, stored.mix)
    if missing := len(voices) - len(encoder.stored.files):
        logger.warning("%d of %d voices are not stored, and are encoded at each visit", missing, len(voices))


def _voices(
    core: SongGenForConditionalGeneration, data: Sequence[TrainingSamples]
) -> Iterator[tuple[str, _Place, int]]:
    """Yield key, place and number of samples of all reference voices of a run, some of them several times."""
    for part, songs in enumerate(data):
        for index in range(len(songs)):
            for number, samples in enumerate(songs.fixed_voices(index)):
                voice = torch.from_numpy(voice_samples(samples))
                if core.voice_encoder.is_voice(voice):
                    yield core.voice_encoder.key_of(voice), (part, index, number), len(voice)


def _mixture_is_constant(core: SongGenForConditionalGeneration) -> bool:
    """Return whether the mixture of the layers can be computed once: it is not trained, and whole on this process."""
    parameters = list(core.mert_layer_agg.parameters())
    return not any(entry.requires_grad or isinstance(entry, DTensor) for entry in parameters)


def _computed_by(core: SongGenForConditionalGeneration, stored: StoredVoices) -> str:
    """Describe everything that the exact bits of features depend on."""
    mixture = "all layers"
    if stored.mix is not None:
        weights = [entry.detach().float().cpu().numpy() for entry in core.mert_layer_agg.parameters()]
        mixture = hashlib.sha256(b"".join(np.ascontiguousarray(weight).tobytes() for weight in weights)).hexdigest()
    return f"{computed_by(core.voice_encoder)}; {stored.dtype}; {mixture}"
