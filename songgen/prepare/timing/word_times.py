"""Words with times, from the tokens of a recognizer and its cross-attention.

Shapes: H heads, T rows (one for each token that is predicted), F frames of the encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from songgen.prepare.engine.record import Word

_REPLACEMENT = "\ufffd"
"""Output of a decoder for bytes that do not form a complete character yet."""


@dataclass(frozen=True)
class TokenSpan:
    """The tokens of one word."""

    text: str
    """Decoded text without surrounding blanks."""

    first: int
    """Index of its first token."""

    last: int
    """Index after its last token."""


def token_starts(attention: np.ndarray, filter_width: int) -> np.ndarray:
    """Return the frame in which each token begins, by the monotone path with the most attention.

    Args:
        attention: H x T x F weights of each head for each predicted token; each row sums to 1.
        filter_width: frames of the median filter that smooths it; odd.

    Returns:
        T frames, in non-decreasing order.
    """
    spread = attention.std(axis=1, keepdims=True)
    # Normalized over tokens: a frame that all tokens attend to equally carries no information about any of them.
    normalized = (attention - attention.mean(axis=1, keepdims=True)) / np.maximum(spread, np.finfo(np.float32).tiny)
    return _first_frames(-_median_filter(normalized, filter_width).mean(axis=0))


def split_words(tokens: Sequence[int], decode: Callable[[list[int]], str], has_blanks: bool) -> list[TokenSpan]:
    """Split tokens into words: at blanks, or at characters in a language without blanks.

    Punctuation belongs to the word before it (at the beginning, to the word after it).

    Args:
        tokens: text tokens only.
        decode: tokens -> text, including blanks.
        has_blanks: whether words are separated by blanks.
    """
    words: list[TokenSpan] = []
    for piece in _whole_characters(tokens, decode):
        if not has_blanks or piece.text[:1].isspace() or not words:
            words.append(piece)
        else:
            words[-1] = _joined(words[-1], piece)
    merged: list[TokenSpan] = []
    for word in words:
        # Pieces without a letter are punctuation, which joins the word before it.
        if merged and not (_has_letter(word.text) and _has_letter(merged[-1].text)):
            merged[-1] = _joined(merged[-1], word)
        else:
            merged.append(word)
    return [TokenSpan(_printable(word.text), word.first, word.last) for word in merged if _has_letter(word.text)]


def timed_words(
    spans: Sequence[TokenSpan], starts: Sequence[float], probabilities: Sequence[float], seconds: float
) -> list[Word]:
    """Return words with times and confidence, the mean probability of their tokens.

    Args:
        spans: words in order.
        starts: start of each token in seconds, and as last entry the end of the text.
        probabilities: probability of each token.
        seconds: length of the audio; later times are clipped to it.
    """
    words = []
    for span in spans:
        start = min(float(starts[span.first]), seconds)
        end = min(max(float(starts[span.last]), start), seconds)
        words.append(Word(span.text, start, end, float(np.mean(probabilities[span.first : span.last]))))
    return words


def _median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Apply a median filter of `width` frames; input that is too short is returned unchanged."""
    assert width % 2 == 1, width
    half = width // 2
    if values.shape[-1] <= half or half == 0:
        return values
    padded = np.pad(values, ((0, 0), (0, 0), (half, half)), mode="reflect")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1), axis=-1))


def _first_frames(cost: np.ndarray) -> np.ndarray:
    """Return the first frame of each row on the cheapest monotone path through a T x F table (dynamic time warping)."""
    num_rows, num_frames = cost.shape
    total = np.empty((num_rows, num_frames))
    total[0] = np.cumsum(cost[0])
    for row in range(1, num_rows):
        above = total[row - 1]
        entered = np.minimum(above, np.concatenate(([np.inf], above[:-1])))
        along = np.cumsum(cost[row])
        # Staying in a row costs the sum of its frames, so a running minimum over the entry frame gives the whole row.
        total[row] = along + np.minimum.accumulate(entered - np.concatenate(([0.0], along[:-1])))
    first = np.zeros(num_rows, dtype=np.int64)
    row, frame = num_rows - 1, num_frames - 1
    while row > 0:
        before = (
            total[row - 1, frame - 1] if frame else np.inf,
            total[row - 1, frame],
            total[row, frame - 1] if frame else np.inf,
        )
        move = int(np.argmin(before))
        if move != 2:
            first[row] = frame
            row -= 1
        if move != 1:
            frame -= 1
    return first


def _whole_characters(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[TokenSpan]:
    """Join tokens that encode parts of one character."""
    pieces, first = [], 0
    for last in range(1, len(tokens) + 1):
        text = decode(list(tokens[first:last]))
        if _REPLACEMENT not in text or last == len(tokens):
            pieces.append(TokenSpan(text.replace(_REPLACEMENT, ""), first, last))
            first = last
    return pieces


def _joined(left: TokenSpan, right: TokenSpan) -> TokenSpan:
    return TokenSpan(left.text + right.text, left.first, right.last)


def _printable(text: str) -> str:
    """Remove control characters, which no file name or table should contain, and surrounding blanks."""
    return "".join(character for character in text if character.isprintable()).strip()


def _has_letter(text: str) -> bool:
    return any(character.isalnum() for character in text)
