"""Times of lyrics: given lines are aligned with the words that were heard; without lyrics, heard words become lines.

All given and all heard words are aligned in order (Needleman-Wunsch), so that a chorus that is sung three times is
placed three times. Shapes: N written units, M heard units (words, or characters where a language has no blanks).
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from songgen.prepare.engine.record import LyricLine, Word
from songgen.prepare.timing.text_distance import begins_phrase, comparable_units, joiner, word_similarity

HEARD_SIMILARITY = 0.6
"""Similarity from which a written word counts as heard: "rivers" for "river", but not "knife" for "night"."""

GAP_SCORE = -0.5
"""Score of a word without a partner; two of them equal a pair that has nothing in common (-1)."""

ORDER_BONUS = 0.25
"""Bonus for a pair that directly follows another pair of its line: repeated words go where the whole line is sung."""

EDGE_PAUSE_SECONDS = 1.0
"""Misheard words at the edge of a line extend it, unless they are separated by a longer pause."""

CAPITAL_PAUSE_SECONDS = 0.2
"""Without given lyrics: a longer pause ends a line if the next word has a capital letter or follows a comma."""

_TAG = re.compile(r"\[([^\[\]]*)\]")
_TAG_NAME = re.compile(r"[a-z]+(?:[- ][a-z]+)*")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)]*$")
_CLAUSE_END = re.compile(r"[,;:、，；：]+[\"'”’)]*$")


@dataclass(frozen=True)
class WrittenLine:
    """A line of given lyrics."""

    text: str
    """The line without its section tag."""

    section: str
    """Name of its section, such as `verse`; empty outside of sections."""


@dataclass(frozen=True)
class AlignOptions:
    """When a line counts as sung, and where heard words are divided into lines."""

    min_confidence: float = 0.4
    """A given line of which a smaller fraction of words was heard gets no times."""

    max_pause_seconds: float = 4.0
    """Longest pause within a line; words beyond a longer pause are not part of it."""

    line_pause_seconds: float = 0.7
    """Without given lyrics: a longer pause ends a line, as does the end of a sentence."""

    max_line_words: int = 12
    """Without given lyrics: most words of a line (three times as many characters in a language without blanks)."""

    min_clause_words: int = 4
    """Without given lyrics: words from which on a comma ends a line."""

    def __post_init__(self) -> None:
        """Check the values, all at once."""
        problems = []
        if not 0 < self.min_confidence <= 1:
            problems.append(f"min_confidence must be above 0 and at most 1, got {self.min_confidence:g}")
        for name in ("max_pause_seconds", "line_pause_seconds"):
            if getattr(self, name) <= 0:
                problems.append(f"{name} must be positive, got {getattr(self, name):g}")
        for name in ("max_line_words", "min_clause_words"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class Alignment:
    """Given lyrics aligned with the words that were heard."""

    lines: tuple[LyricLine, ...]
    """Sung lines, in order; none begins before the previous one ends."""

    unsung: tuple[WrittenLine, ...]
    """Lines of which too little was heard."""

    coverage: float
    """Fraction of all written words that were heard in their lines, 0 to 1."""


def written_lines(lyrics: str) -> list[WrittenLine]:
    """Split lyrics into lines; a tag in square brackets names the section of the following lines.

    `[Verse 2: all]` is the section `verse`. Empty lines are dropped.
    """
    lines: list[WrittenLine] = []
    section = ""
    for line in lyrics.splitlines():
        for number, part in enumerate(_TAG.split(line)):
            if number % 2:
                name = _TAG_NAME.match(part.strip().lower())
                section = name[0] if name else ""
            elif part.strip():
                lines.append(WrittenLine(part.strip(), section))
    return lines


def align_lyrics(
    lines: Sequence[WrittenLine], words: Sequence[Word], language: str, options: AlignOptions | None = None
) -> Alignment:
    """Place written lines in time.

    Args:
        lines: all lines of the song, in the order of singing.
        words: words heard in the same audio, in order.
        language: code, which decides what is compared (see `text_distance`).
        options: when a line counts as sung.
    """
    options = options or AlignOptions()
    units = [comparable_units(line.text, language) for line in lines]
    owners = [number for number, own in enumerate(units) for _ in own]
    heard = [timed for word in words for timed in _timed_units(word, language)]
    flat = [unit for own in units for unit in own]
    partners, similarities = align_units(flat, [word.text for word in heard], owners)
    taken = {
        partner for partner, similarity in zip(partners, similarities, strict=True) if similarity >= HEARD_SIMILARITY
    }
    placed, unsung, num_found = [], [], 0
    first = 0
    for line, own in zip(lines, units, strict=True):
        span = range(first, first + len(own))
        first += len(own)
        if not own:
            continue
        found = _together([at for at in span if similarities[at] >= HEARD_SIMILARITY], partners, heard, options)
        if len(found) < options.min_confidence * len(own):
            unsung.append(line)
            continue
        num_found += len(found)
        begin = heard[_edge(partners[found[0]], -1, found[0] - span.start, taken, heard)].start
        end = heard[_edge(partners[found[-1]], 1, span.stop - 1 - found[-1], taken, heard)].end
        placed.append(LyricLine(line.text, begin, end, line.section, len(found) / len(own)))
    return Alignment(tuple(_in_order(placed)), tuple(unsung), num_found / len(flat) if flat else 0.0)


def align_units(written: Sequence[str], heard: Sequence[str], owners: Sequence[int]) -> tuple[list[int], list[float]]:
    """Pair written with heard units, in order, so that the sum of similarities is highest.

    Args:
        written: N units.
        heard: M units.
        owners: N line numbers of the written units.

    Returns:
        For each written unit, the index of its heard partner (-1 for none) and the similarity of the two, 0 to 1.
    """
    partners, similarities = [-1] * len(written), [0.0] * len(written)
    if not written or not heard:
        return partners, similarities
    similarity = _similarities(written, heard)
    paired, single = _scores(similarity, owners)
    row, column = len(written), len(heard)
    is_paired = paired[row, column] >= single[row, column]
    while row > 0 and column > 0:
        if is_paired:
            row, column = row - 1, column - 1
            partners[row], similarities[row] = column, float(similarity[row, column])
            bonus = _bonus(similarity[row], owners, row)[column]
            is_paired = paired[row, column] + bonus >= single[row, column]
            continue
        ways = (paired[row - 1, column], single[row - 1, column], paired[row, column - 1], single[row, column - 1])
        way = int(np.argmax(ways))
        row, column = (row - 1, column) if way < 2 else (row, column - 1)
        is_paired = way in (0, 2)
    return partners, similarities


def lines_of_words(words: Sequence[Word], language: str, options: AlignOptions | None = None) -> list[LyricLine]:
    """Divide heard words into lines: at pauses, after sentences, at commas, and where a line gets too long.

    Args:
        words: heard words with punctuation, in order.
        language: code, which decides whether words are separated by blanks.
        options: where lines end.
    """
    options = options or AlignOptions()
    separator = joiner(language)
    longest = options.max_line_words if separator else 3 * options.max_line_words
    groups: list[list[Word]] = []
    for word in words:
        if not groups or _ends_line(groups[-1], word, language, longest, options):
            groups.append([])
        groups[-1].append(word)
    return _in_order(
        [
            LyricLine(separator.join(word.text for word in group), group[0].start, group[-1].end, "", 1.0)
            for group in groups
        ]
    )


def _ends_line(line: Sequence[Word], following: Word, language: str, longest: int, options: AlignOptions) -> bool:
    last = line[-1]
    pause = following.start - last.end
    if pause > options.line_pause_seconds or len(line) >= longest:
        return True
    # Recognizers write a capital letter where a line of the song begins; alone, it may be a name.
    if pause > CAPITAL_PAUSE_SECONDS and begins_phrase(last.text, following.text, language):
        return True
    if _SENTENCE_END.search(last.text):
        return True
    return len(line) >= options.min_clause_words and _CLAUSE_END.search(last.text) is not None


def _timed_units(word: Word, language: str) -> list[Word]:
    """Divide a heard word into its comparable units, each with an equal part of its time."""
    units = comparable_units(word.text, language)
    share = (word.end - word.start) / max(1, len(units))
    return [
        Word(unit, word.start + number * share, word.start + (number + 1) * share, word.confidence)
        for number, unit in enumerate(units)
    ]


def _similarities(written: Sequence[str], heard: Sequence[str]) -> np.ndarray:
    """Return N x M similarities; pairs that share too few letters to count as heard get 0."""
    rows, columns = sorted(set(written)), sorted(set(heard))
    counts = [Counter(unit) for unit in columns]
    table = np.zeros((len(rows), len(columns)))
    for row, unit in enumerate(rows):
        letters = Counter(unit)
        for column, other in enumerate(columns):
            longest = max(len(unit), len(other))
            # The common letters bound the similarity from above, so most pairs need no edit distance.
            if (letters & counts[column]).total() >= HEARD_SIMILARITY * longest:
                table[row, column] = word_similarity(unit, other)
    row_of = {unit: row for row, unit in enumerate(rows)}
    column_of = {unit: column for column, unit in enumerate(columns)}
    return table[np.ix_([row_of[unit] for unit in written], [column_of[unit] for unit in heard])]


def _scores(similarity: np.ndarray, owners: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return two (N + 1) x (M + 1) tables of best sums for the first n written and m heard units.

    In the first table, the last two units are a pair; in the second, they are not.
    """
    num_rows, num_columns = similarity.shape
    paired = np.full((num_rows + 1, num_columns + 1), -np.inf)
    single = np.empty_like(paired)
    steps = GAP_SCORE * np.arange(num_columns + 1)
    single[0] = steps
    for row in range(1, num_rows + 1):
        own = similarity[row - 1]
        follows = paired[row - 1, :-1] + _bonus(own, owners, row - 1)
        paired[row, 1:] = 2.0 * own - 1.0 + np.maximum(follows, single[row - 1, :-1])
        entered = np.maximum(paired[row - 1], single[row - 1]) + GAP_SCORE
        entered[1:] = np.maximum(entered[1:], paired[row, :-1] + GAP_SCORE)
        # Each unpaired heard word of a row costs the same, so a running maximum of (value - cost) gives the row.
        single[row] = np.maximum.accumulate(entered - steps) + steps
    return paired, single


def _bonus(similarity: np.ndarray, owners: Sequence[int], row: int) -> np.ndarray:
    """Return the bonus of each pair of a row for directly following the previous pair."""
    continues = row > 0 and owners[row] == owners[row - 1]
    return np.where(similarity >= HEARD_SIMILARITY, ORDER_BONUS, 0.0) * continues


def _together(found: list[int], partners: Sequence[int], heard: Sequence[Word], options: AlignOptions) -> list[int]:
    """Return the largest group of a line's heard units without a long pause."""
    parts: list[list[int]] = [[]]
    for at in found:
        if parts[-1] and heard[partners[at]].start - heard[partners[parts[-1][-1]]].end > options.max_pause_seconds:
            parts.append([])
        parts[-1].append(at)
    return max(parts, key=len)


def _edge(place: int, step: int, most: int, taken: Collection[int], heard: Sequence[Word]) -> int:
    """Extend a line from its outermost heard unit over units that no line has taken, which are its misheard words.

    Args:
        place: index of the heard unit.
        step: -1 towards the beginning, 1 towards the end.
        most: number of written units that the line has left on that side.
        taken: heard units that have a written partner.
        heard: all heard units.
    """
    for _ in range(most):
        beyond = place + step
        if not 0 <= beyond < len(heard) or beyond in taken:
            break
        left, right = (heard[beyond], heard[place]) if step < 0 else (heard[place], heard[beyond])
        if right.start - left.end > EDGE_PAUSE_SECONDS:
            break
        place = beyond
    return place


def _in_order(lines: Sequence[LyricLine]) -> list[LyricLine]:
    """End each line no later than the next one begins, since words may overlap by a frame."""
    ends = [min(line.end, following.start) for line, following in zip(lines, lines[1:], strict=False)]
    return [
        LyricLine(line.text, line.start, max(line.start, end), line.section, line.confidence)
        for line, end in zip(lines, [*ends, lines[-1].end] if lines else [], strict=True)
    ]
