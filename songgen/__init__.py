"""Text-to-song models: layouts, codecs, conditioning, model, generation and training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from songgen.environment import keep_quiet

if TYPE_CHECKING:
    from songgen.families.use.opening import open_model
    from songgen.generation.processing_songgen import SongGenProcessor
    from songgen.lyrics import VoiceBpeTokenizer
    from songgen.models import (
        SongGenDualTrackForConditionalGeneration,
        SongGenForConditionalGeneration,
        SongGenMixedForConditionalGeneration,
    )

__version__ = "0.1.0"

keep_quiet()

_HOMES = {
    "SongGenDualTrackForConditionalGeneration": "songgen.models",
    "SongGenForConditionalGeneration": "songgen.models",
    "SongGenMixedForConditionalGeneration": "songgen.models",
    "SongGenProcessor": "songgen.generation.processing_songgen",
    "VoiceBpeTokenizer": "songgen.lyrics",
    "open_model": "songgen.families.use.opening",
}
"""Public name -> module; loaded when first asked for, so that `import songgen` stays quick."""

__all__ = [
    "SongGenDualTrackForConditionalGeneration",
    "SongGenForConditionalGeneration",
    "SongGenMixedForConditionalGeneration",
    "SongGenProcessor",
    "VoiceBpeTokenizer",
    "__version__",
    "open_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'songgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
