"""The SongGen model and its parts."""

from songgen.models.configuration_songgen import DecoderConfig, LyricsEncoderConfig, SongGenConfig
from songgen.models.decoder import Conditions, DecoderCache
from songgen.models.modeling_songgen import (
    SongGenDualTrackForConditionalGeneration,
    SongGenForConditionalGeneration,
    SongGenMixedForConditionalGeneration,
    SongGenOutput,
)

__all__ = [
    "Conditions",
    "DecoderCache",
    "DecoderConfig",
    "LyricsEncoderConfig",
    "SongGenConfig",
    "SongGenDualTrackForConditionalGeneration",
    "SongGenForConditionalGeneration",
    "SongGenMixedForConditionalGeneration",
    "SongGenOutput",
]
