"""What a recognizer hears of a chunk of audio, and what of it is not believed; no network is needed to say so."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from songgen.prepare.engine.record import Word


@dataclass(frozen=True)
class Guards:
    """When a text is not believed: the rules and the figures of Whisper's own transcription."""

    compression_ratio_limit: float = 2.4
    """Bytes of a chunk's text over its compressed bytes; more means that it runs in circles. A refrain of one word may
    do the same: raise it for such songs."""

    log_probability_limit: float = -1.0
    """Least mean logarithm of the tokens' probabilities."""

    no_speech_limit: float = 0.6
    """A chunk whose probability of holding no speech is higher, and whose log probability is too low, is silent."""

    retries: int = 5
    """Times that a chunk is tried again, each time drawn at a temperature higher by 0.2; 0 to leave it out at once."""


@dataclass(frozen=True)
class HeardChunk:
    """What was heard in a chunk."""

    words: tuple[Word, ...]
    """With seconds from the beginning of the chunk; empty when the text is not believed."""

    log_probability: float
    """Mean logarithm of the probabilities of the tokens and of the end."""

    compression_ratio: float
    """See `Guards`."""

    no_speech: float
    """Probability that nobody speaks."""

    doubt: str = ""
    """Guard that stopped the text: `no_speech`, `compression_ratio`, `log_probability`; empty when it is believed."""


def compression_ratio(text: str) -> float:
    """Return the bytes of a text over its compressed bytes; 0 for an empty one."""
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0


def find_doubt(ratio: float, log_probability: float, no_speech: float, guards: Guards) -> str:
    """Return the guard that stops a text, or an empty string; silence comes first, since trying again is no use."""
    is_improbable = log_probability < guards.log_probability_limit
    if is_improbable and no_speech > guards.no_speech_limit:
        return "no_speech"
    if ratio > guards.compression_ratio_limit:
        return "compression_ratio"
    return "log_probability" if is_improbable else ""


def likeliest_language(probabilities: Mapping[str, float]) -> str:
    """Return the most probable language; of equal ones the first by code."""
    return min(probabilities, key=lambda code: (-probabilities[code], code))
