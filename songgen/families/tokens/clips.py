"""Checks of the clips that a token model is trained on."""

from __future__ import annotations

import logging

import numpy as np

from songgen.config import RunConfig
from songgen.data.dataset import SongDataset, check_against_model
from songgen.data.samples import TrainingSamples
from songgen.families.objective import DataNeeds
from songgen.families.tokens.model import model_fingerprints
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.tasks import VOCAL

logger = logging.getLogger(__name__)


def check_clips(config: RunConfig, core: SongGenForConditionalGeneration, songs: SongDataset, needs: DataNeeds) -> None:
    """Compare clips with the model, which is not changed.

    Raises:
        ValueError: if they do not agree; the message lists all differences.
    """
    uses_voice = config.data.voice_probabilities().get(VOCAL, 0.0) > 0
    check_against_model(
        songs,
        target_tracks=needs.target_tracks,
        auxiliary_tracks=needs.auxiliary_tracks,
        num_codebooks=core.layout.num_codebooks,
        codebook_size=core.vocabulary.codebook_size,
        voice_sample_rate=core.voice_encoder.sample_rate if uses_voice and songs.info.voice_sample_rate else None,
        **model_fingerprints(config, core),
    )


def warn_without_voices(samples: TrainingSamples) -> None:
    """Warn if reference voices are asked for but no clip has one, with the numbers that explain it."""
    options, songs = samples.options, samples.dataset
    if not options.voice_choices.get(VOCAL) or samples.has_voice().any():
        return
    stored, energies = int((songs.voice_lengths() > 0).sum()), songs.energies(VOCAL)
    known = energies[~np.isnan(energies)]
    loudest = f"{known.max():g}" if len(known) else "unknown"
    logger.warning(
        "%s: no clip has a reference voice, so the model is trained without them: %d of %d clips hold a vocal track "
        "for it, the highest energy of these tracks is %s, voice_min_energy is %g",
        songs.name, stored, len(songs), loudest, options.voice_min_energy,
    )  # fmt: skip
