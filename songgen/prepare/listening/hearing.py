"""The result of recognizing a chunk of audio, and the rules by which it is rejected. No network is needed here."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from songgen.prepare.engine.record import Word


@dataclass(frozen=True)
class Guards:
    """Limits beyond which a text is rejected: the rules and values of Whisper's own transcription."""

    compression_ratio_limit: float = 2.4
    """Highest ratio of text bytes to compressed bytes; a higher one means that the text repeats itself. Raise it for
    songs whose refrain is a single word."""

    log_probability_limit: float = -1.0
    """Lowest mean log probability of the tokens."""

    no_speech_limit: float = 0.6
    """A chunk with a higher no-speech probability and a log probability that is too low counts as silent."""

    retries: int = 5
    """Number of times that a rejected chunk is sampled again, each time at a temperature higher by 0.2."""


@dataclass(frozen=True)
class HeardChunk:
    """Result for one chunk."""

    words: tuple[Word, ...]
    """Words with times from the start of the chunk; empty if the text is rejected."""

    log_probability: float
    """Mean log probability of the tokens, including the end token."""

    compression_ratio: float
    """Text bytes divided by compressed bytes."""

    no_speech: float
    """Probability that the chunk holds no speech."""

    doubt: str = ""
    """Rule that rejected the text: `no_speech`, `compression_ratio` or `log_probability`; empty if it is accepted."""


def compression_ratio(text: str) -> float:
    """Return the ratio of a text's bytes to its compressed bytes; 0 for an empty text."""
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0


def find_doubt(ratio: float, log_probability: float, no_speech: float, guards: Guards) -> str:
    """Return the rule that rejects a text, or an empty string; silence comes first, since retrying does not help."""
    is_improbable = log_probability < guards.log_probability_limit
    if is_improbable and no_speech > guards.no_speech_limit:
        return "no_speech"
    if ratio > guards.compression_ratio_limit:
        return "compression_ratio"
    return "log_probability" if is_improbable else ""


def most_probable_language(probabilities: Mapping[str, float]) -> str:
    """Return the most probable language; among equals, the first by code."""
    return min(probabilities, key=lambda code: (-probabilities[code], code))
