"""The step that finds near-duplicate clips by their fingerprints and keeps the best of each group.

There are too many pairs to compare all of them. An index finds pairs with equal parts of their fingerprints, and only
these are compared bit by bit. Copies are found in other formats, louder or quieter, shifted, cut and with noise, but
not at another speed or pitch. Songs that share an accompaniment and are sung differently are not duplicates.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from songgen.data.audio import AudioRejected, energy
from songgen.prepare.engine.audio_files import read_audio, resample_frames
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, RefusalCode, Section
from songgen.prepare.engine.step import SetStep, Step, StepOutput, WorkFolder
from songgen.prepare.listening import source_quality
from songgen.prepare.listening.fingerprint import NUM_BITS, SAMPLE_RATE, fingerprint, from_text, similarity, to_text
from songgen.prepare.listening.source_quality import advantages, copy_losses
from songgen.prepare.steps.measures import clipped_share
from songgen.prepare.steps.splits import EVALUATION
from songgen.tasks import MIX

MIN_FRAMES = 10
"""Fewest compared frames of a pair, half a second."""

MIN_HITS = 2
"""Fewest equal keys at about the same distance for a pair to be compared."""

NEIGHBOURS = 32
"""Most following clips that a clip is paired with if many have an equal key, such as a hum or a common chord."""

KEY_SIZES = ((1 << 22, 8), (1 << 26, 4))
"""(most frames of all clips, bits left out of each key). With more bits left out, more copies are found and more
unrelated clips are compared."""

HINT_SECONDS = 0.5
"""Clips with the same words whose lengths differ by at most this are compared even if the index has no pair of them."""


@dataclass(frozen=True)
class DuplicateOptions:
    """When two clips count as the same.

    Raises:
        ValueError: If a value is not a fraction.
    """

    min_similarity: float = 0.65
    """Lowest similarity of duplicates, from 0 (unrelated) to 1 (equal). Copies as MP3, 2 s shorter and at half the
    level have at least 0.72, another voice over the same accompaniment at most 0.40. The same recording of a voice over
    another accompaniment has 0.28 to 0.87, so it counts as a copy if the voice is much louder."""

    min_overlap: float = 0.5
    """Fraction of the shorter clip that the two must have in common."""

    within_songs: bool = True
    """Whether equal passages of one song count as duplicates, such as a chorus that was pasted."""

    def __post_init__(self) -> None:
        """Check the values."""
        problems = [
            f"{name} must be above 0 and at most 1, got {getattr(self, name):g}"
            for name in ("min_similarity", "min_overlap")
            if not 0 < getattr(self, name) <= 1
        ]
        if problems:
            raise ValueError("; ".join(problems))


Pair = tuple[int, int]
"""Two clips by number, the lower one first."""


def candidate_pairs(prints: Sequence[np.ndarray]) -> dict[Pair, set[int]]:
    """Find pairs of clips that may be similar, without comparing all pairs.

    Args:
        prints: fingerprint of each clip, as arrays of frames.

    Returns:
        pair -> frames of the first clip at which the second may begin.
    """
    owners = np.repeat(np.arange(len(prints)), [len(values) for values in prints])
    if not len(owners):
        return {}
    values = np.concatenate(prints).astype(np.uint32)
    frames = np.concatenate([np.arange(len(print_)) for print_ in prints])
    heard = values != 0
    values, owners, frames = values[heard], owners[heard], frames[heard]
    longest = max(len(print_) for print_ in prints)
    found = [_equal_keys(values & mask, owners, frames, len(prints), longest) for mask in _masks(len(values))]
    codes, counts = np.unique(np.concatenate(found), return_counts=True)
    pairs, offsets = np.divmod(codes, 2 * longest)
    # A shift by part of a frame divides the hits among two neighbouring distances.
    follows = np.zeros(len(codes), dtype=bool)
    follows[:-1] = (codes[1:] == codes[:-1] + 1) & (pairs[1:] == pairs[:-1])
    together = counts + np.where(follows, np.append(counts[1:], 0), 0)
    candidates: dict[Pair, set[int]] = defaultdict(set)
    for index in np.flatnonzero(together >= MIN_HITS):
        first, second = divmod(int(pairs[index]), len(prints))
        offset = int(offsets[index]) - longest
        candidates[first, second] |= {offset, offset + 1} if follows[index] else {offset}
    return dict(candidates)


def _masks(num_frames: int) -> list[np.uint32]:
    """Return the bit mask of each key; the bits left out are spread over the whole range of pitch."""
    left_out = next((bits for limit, bits in KEY_SIZES if num_frames <= limit), 0)
    if not left_out:
        return [np.uint32(0xFFFFFFFF)]
    passes = NUM_BITS // left_out
    return [np.uint32(sum(1 << bit for bit in range(NUM_BITS) if bit % passes != index)) for index in range(passes)]


def _equal_keys(keys: np.ndarray, owners: np.ndarray, frames: np.ndarray, num_clips: int, longest: int) -> np.ndarray:
    """Return a code for each pair of clips with an equal key: (first, second, distance in frames) as one number."""
    order = np.lexsort((frames, owners, keys))
    keys, owners, frames = keys[order], owners[order], frames[order]
    # Only the first occurrence of a key in a clip counts.
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    keys, owners, frames = keys[is_first], owners[is_first].astype(np.int64), frames[is_first].astype(np.int64)
    found = [np.zeros(0, dtype=np.int64)]
    for distance in range(1, NEIGHBOURS + 1):
        equal = np.flatnonzero(keys[:-distance] == keys[distance:])
        if not len(equal):
            break
        first, second = equal, equal + distance
        pair = owners[first] * num_clips + owners[second]
        found.append(pair * (2 * longest) + frames[first] - frames[second] + longest)
    return np.concatenate(found)


def same_words(records: Sequence[SongRecord]) -> Iterator[Pair]:
    """Yield pairs of clips with equal lyrics and nearly equal lengths."""
    alike: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        words = " ".join(record.lyrics.casefold().split())
        if words:
            alike[words].append(index)
    for indices in alike.values():
        ordered = sorted(indices, key=lambda index: records[index].duration)
        for place, first in enumerate(ordered):
            for second in ordered[place + 1 : place + 1 + NEIGHBOURS]:
                if records[second].duration - records[first].duration <= HINT_SECONDS:
                    yield min(first, second), max(first, second)


def compare(first: np.ndarray, second: np.ndarray, offsets: Iterable[int], min_overlap: float) -> float:
    """Return the similarity of two clips at the best of some distances; 0 if they overlap too little."""
    shorter = min(np.count_nonzero(first), np.count_nonzero(second))
    needed = max(MIN_FRAMES, min_overlap * shorter)
    best = 0.0
    for offset in offsets:
        alike, num_frames = similarity(first, second, offset)
        if num_frames >= needed:
            best = max(best, alike)
    return best


def find_alike(records: Sequence[SongRecord], options: DuplicateOptions) -> dict[Pair, float]:
    """Return all pairs of clips that are near-duplicates, with their similarity."""
    prints = [from_text(record.fingerprint) for record in records]
    indexed = candidate_pairs(prints)
    # Thousands of clips with the same word make very many pairs, so these are generated one by one.
    hinted = (
        (pair, range(1 - len(prints[pair[1]]), len(prints[pair[0]])))
        for pair in same_words(records)
        if pair not in indexed
    )
    found = {}
    offsets: Iterable[int]
    for (first_index, second_index), offsets in chain(indexed.items(), hinted):
        if not options.within_songs and records[first_index].song == records[second_index].song:
            continue
        alike = compare(prints[first_index], prints[second_index], offsets, options.min_overlap)
        if alike >= options.min_similarity:
            found[first_index, second_index] = alike
    return found


def preference(record: SongRecord) -> tuple[object, ...]:
    """Return the sort key of duplicates; the first one is kept.

    A clip that a person has accepted comes first; then a held-out clip, so that training does not see a copy of it;
    then clips with lyrics, preferably given by a person; then the best recording (see `source_quality.copy_losses`).
    """
    is_written = record.lyrics_source in _WRITTEN
    loss = round(sum(copy_losses(record).values()), 2)
    is_held_out = record.split == EVALUATION
    return (not record.is_accepted, not is_held_out, not record.lyrics, not is_written, loss, record.id)


_WRITTEN = ("given", "review")
"""Sources of lyrics that a person has written or checked."""


def reason_to_keep(kept: SongRecord, other: SongRecord) -> str:
    """Return in words why one of two copies is kept, by the first difference in `preference`."""
    if kept.is_accepted and not other.is_accepted:
        return "a person has accepted it"
    if kept.split == EVALUATION and other.split != EVALUATION:
        return "it is held out for evaluation"
    if kept.lyrics and not other.lyrics:
        return "it has lyrics"
    if kept.lyrics_source in _WRITTEN and other.lyrics_source not in _WRITTEN:
        return "its lyrics were written by a person"
    return ", ".join(advantages(kept, other)) or "the copies are equally good"


def groups_of(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the connected groups of the pairs, sorted."""
    group_of: dict[str, list[str]] = {}
    for first, second in pairs:
        one, other = group_of.setdefault(first, [first]), group_of.setdefault(second, [second])
        if one is not other:
            one += other
            group_of.update(dict.fromkeys(other, one))
    return sorted({id(group): sorted(group) for group in group_of.values()}.values())


@dataclass(frozen=True)
class Duplicates:
    """Duplicates among some clips."""

    pairs: Mapping[Pair, float]
    """Pair of similar clips -> similarity."""

    left_out: Mapping[int, tuple[int, float]]
    """Refused clip -> the clip that is kept, and the similarity to it or to a copy of it."""


def find_duplicates(records: Sequence[SongRecord], options: DuplicateOptions) -> Duplicates:
    """Find similar clips, and choose which to refuse, so that each refused clip is similar to one that is kept."""
    pairs: dict[Pair, float] = {}
    left_out: dict[int, tuple[int, float]] = {}
    remaining = list(range(len(records)))
    while remaining:
        found = find_alike([records[index] for index in remaining], options)
        named = {(remaining[first], remaining[second]): alike for (first, second), alike in found.items()}
        pairs |= named
        left_out |= _worse_of(records, named)
        # The index compares each of many copies with the next ones only, so the remaining clips are compared again.
        again = sorted({index for pair in named for index in pair} - left_out.keys())
        remaining = again if len(again) < len(remaining) else []
    return Duplicates(pairs, {index: (_last_kept(index, left_out), left_out[index][1]) for index in left_out})


def _worse_of(records: Sequence[SongRecord], alike: Mapping[Pair, float]) -> dict[int, tuple[int, float]]:
    """Refuse, starting with the best clip, every clip that is similar to a better one that is kept."""
    neighbours: dict[int, dict[int, float]] = defaultdict(dict)
    for (first, second), value in alike.items():
        neighbours[first][second] = neighbours[second][first] = value
    left_out: dict[int, tuple[int, float]] = {}
    kept: set[int] = set()
    for index in sorted(neighbours, key=lambda number: preference(records[number])):
        better = kept & neighbours[index].keys()
        if better:
            other = max(better, key=lambda number: (neighbours[index][number], records[number].id))
            left_out[index] = (other, neighbours[index][other])
        else:
            kept.add(index)
    return left_out


def _last_kept(index: int, left_out: Mapping[int, tuple[int, float]]) -> int:
    while index in left_out:
        index = left_out[index][0]
    return index


class FingerprintStep(Step):
    """Computes the fingerprint of each clip, for the search of duplicates, and what tells the better of two copies.

    These are the energy of the mix and the measures `bandwidth` (hertz), `leading_silence_seconds` and
    `clipped_share`; `lossless_source` was found when the song was taken in.
    """

    name = "fingerprint"
    version = 2

    def __init__(self, options: DuplicateOptions) -> None:
        """Take the options of the section; none of them changes a fingerprint."""

    def parameters(self) -> JsonObject:
        """Return nothing, since there are no parameters."""
        return {}

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return nothing, since only the sound counts."""
        return {}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the mix."""
        return [record.audio[MIX]]

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Add `fingerprint` and measures to each clip."""
        return [self._listen(record, folder) for record in records]

    def _listen(self, record: SongRecord, folder: WorkFolder) -> StepOutput:
        try:
            samples, rate = read_audio(folder.track(record, MIX))
        except AudioRejected as error:
            return StepOutput(refusal=Refusal(self.name, error.code, error.reason))
        measures = {
            source_quality.BANDWIDTH: source_quality.bandwidth(samples, rate),
            source_quality.LEADING_SILENCE: source_quality.leading_silence(samples, rate),
            source_quality.CLIPPED: clipped_share(samples),
        }
        found = to_text(fingerprint(resample_frames(samples[:, None], rate, SAMPLE_RATE)[:, 0]))
        return StepOutput({"fingerprint": found, "energies": {MIX: round(energy(samples), 4)}, "measures": measures})


class DuplicateStep(SetStep):
    """Refuses all but the best clip of each group of near-duplicates; their songs are kept in one split."""

    name = "duplicates"
    version = 2

    def __init__(self, options: DuplicateOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return the options."""
        return dataclasses.asdict(self.options)

    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Compare all clips."""
        found = find_duplicates(records, self.options)
        songs = {(records[first].song, records[second].song) for first, second in found.pairs}
        groups = groups_of((first, second) for first, second in sorted(songs) if first != second)
        name_of = {song: group[0] for group in groups for song in group}
        refusals = {
            index: self._refusal(records[kept], records[index], round(alike, 3))
            for index, (kept, alike) in found.left_out.items()
        }
        return [
            StepOutput({"group": name_of[record.song]} if record.song in name_of else {}, refusal=refusals.get(index))
            for index, record in enumerate(records)
        ]

    def _refusal(self, kept: SongRecord, other: SongRecord, alike: float) -> Refusal:
        reason = (
            f"it sounds like {kept.id}, which is kept (similarity {alike:g}) for this reason: "
            f"{reason_to_keep(kept, other)}"
        )
        return Refusal(self.name, "duplicate", reason, alike, self.options.min_similarity, kept=kept.id)


SECTION = Section(
    "duplicates",
    "clips that sound like others",
    DuplicateOptions,
    Phase.DESCRIBED,
    [FingerprintStep, DuplicateStep],
    refusal_codes={
        "duplicate": RefusalCode(
            "it sounds like another clip, which is kept",
            "The collection holds many copies, such as compilations and reissues. Nothing is lost by leaving them out; "
            "more different songs help more.",
        ),
    },
)
