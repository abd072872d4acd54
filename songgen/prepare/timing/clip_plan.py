"""Plan of the clips of a song, which is cut at pauses and ends of lines, never inside a line or a word.

The plan depends on times alone, not on audio. The recording is first divided into regions: sung ones, with lines that
follow each other closely; instrumental ones, with a long passage without singing; and unusable ones. Sung regions are
then divided so that clips get close to a target length and are cut at long pauses. Every instant belongs to at most one
clip, and the time outside of clips is counted by reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from songgen.prepare.timing.intervals import Interval, covered_seconds, merged, within, without

SUNG, INSTRUMENTAL = "sung", "instrumental"

UNUSED_REASONS = {
    "too_short": "passages shorter than the shortest clip",
    "pause": "pauses around a line that fits into a clip only without them",
    "instrumental": "passages without voice, which the configuration leaves out",
    "voice_without_lyrics": "passages with singing but without a line of the lyrics",
    "line_too_long": "lines (or overlapping lines) that are longer than the longest clip and cannot be divided",
}
"""Reason why a part of a song is in no clip -> its meaning."""

PAUSE_SCALE = 0.3
"""Length of pause, in seconds, that reduces the penalty of a cut by a factor of e."""

VOICED_PAUSE_SHARE = 0.5
"""Weight of a pause between words in which the voice detector still finds a voice."""

HARD_CUT_COST = 2.0
"""Penalty of a cut through a voice; a cut without any pause costs 1."""

UNUSABLE_COST = 50.0
"""Penalty of a piece that cannot be a clip, so high that any division without one is better."""

FindBeats = Callable[[float, float], Sequence[float]]
"""Start and end of a passage in seconds -> times of its beats in the song."""

_EPSILON = 1e-6
"""Times closer than this, in seconds, are equal."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of cutting songs into clips."""

    min_seconds: float = 2.0
    """Shortest clip."""

    max_seconds: float = 30.0
    """Longest clip."""

    target_seconds: float = 12.0
    """Preferred length of clips."""

    max_pause_seconds: float = 4.0
    """Longer passages without voice are instrumental: separate clips, or left out."""

    padding_seconds: float = 0.5
    """Part of a neighbouring instrumental passage that a sung clip keeps."""

    max_unmatched_seconds: float = 2.0
    """Longest voice outside of the lines (held notes, calls) that a clip may contain; a longer passage is in no
    clip."""

    keep_instrumental: bool = True
    """Whether instrumental passages become clips."""

    keep_short_songs: bool = True
    """Whether a recording of at most `max_seconds` stays one clip, unless it contains more voice outside of the lines
    than `max_unmatched_seconds`."""

    sample_rate: int = 0
    """Sample rate of the clips; 0 keeps that of the mix."""

    mono: bool = True
    """Whether channels are averaged (training uses one)."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if not 0 < self.min_seconds <= self.target_seconds <= self.max_seconds:
            problems.append(
                "min_seconds, target_seconds and max_seconds must be positive and in this order, got "
                f"{self.min_seconds:g}, {self.target_seconds:g}, {self.max_seconds:g}"
            )
        if not 0 <= 2 * self.padding_seconds <= self.max_pause_seconds:
            problems.append(
                f"padding_seconds must be at least 0 and at most half of max_pause_seconds "
                f"({self.max_pause_seconds:g}), got {self.padding_seconds:g}"
            )
        if not self.max_unmatched_seconds >= 0:
            problems.append(f"max_unmatched_seconds must be at least 0, got {self.max_unmatched_seconds:g}")
        if self.sample_rate < 0:
            problems.append(f"sample_rate must be positive, or 0 for that of the mix, got {self.sample_rate}")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class PlannedClip:
    """A passage that becomes a clip."""

    start: float
    """Start in the song, in seconds."""

    end: float
    """End in the song, in seconds."""

    kind: str
    """`instrumental` if it is known that nobody sings, else `sung`."""

    hard_cuts: int = 0
    """Number of its two ends that cut through a voice or a word because there is no pause."""


@dataclass(frozen=True)
class ClipPlan:
    """Division of a recording into clips."""

    clips: tuple[PlannedClip, ...]
    """Clips in order, without overlap."""

    unused: Mapping[str, float] = field(default_factory=dict)
    """Reason -> seconds that are in no clip; together with the clips, the whole recording."""


@dataclass(frozen=True)
class _Unit:
    """A passage that is not cut: a line, a word, or a passage of voice."""

    start: float
    end: float
    reason: str = ""
    """Key of UNUSED_REASONS if the unit is in no clip."""

    is_joined: bool = False
    """Whether it continues the voice of the unit before it without a pause."""


@dataclass(frozen=True)
class _Cut:
    """A place where two units may be separated."""

    time: float
    pause: float
    is_hard: bool = False


@dataclass(frozen=True)
class _Region:
    """A passage with its units."""

    start: float
    end: float
    units: tuple[_Unit, ...] = ()
    cuts: tuple[_Cut, ...] = ()
    """One fewer than units."""


def plan_clips(
    duration: float,
    voiced: Sequence[Interval] | None,
    lines: Sequence[Interval],
    words: Sequence[Interval],
    options: SegmentOptions,
    find_beats: FindBeats | None = None,
) -> ClipPlan:
    """Divide a song into clips.

    Args:
        duration: seconds.
        voiced: intervals with singing; None if this was not detected.
        lines: intervals of the lines of the lyrics, in any order; may overlap or be empty.
        words: intervals of single words; may be empty.
        options: lengths of clips.
        find_beats: (start, end) of a passage without voice -> times of its beats; None cuts such passages evenly.

    Returns:
        Clips whose ends are not inside a line, nor inside a word unless `hard_cuts` counts them.
    """
    words = merged(within(words, duration))
    units = _find_units(duration, voiced, lines, words, options)
    # Voice that no line accounts for is left out of short recordings too, which are cut then.
    is_unmatched = any(unit.reason for unit in units)
    if options.keep_short_songs and duration <= options.max_seconds and not is_unmatched:
        if duration < options.min_seconds:
            return ClipPlan((), {"too_short": duration})
        return ClipPlan((PlannedClip(0.0, duration, SUNG if units or voiced is None else INSTRUMENTAL),))
    if not units and voiced is None:
        # Nothing is known of the recording, so it is cut into equal pieces, whose ends may cut through a voice.
        units = _divided(_Unit(0.0, duration), options.max_seconds)
    clips: list[PlannedClip] = []
    unused: dict[str, float] = {}
    for region in _find_regions(duration, units, voiced or (), words, options):
        if not region.units:
            heard = merged([*(voiced or ()), *words])
            pieces = _instrumental_pieces(region, options, find_beats)
            _plan_instrumental(pieces, heard, bool(lines), options, clips, unused)
        elif reason := region.units[0].reason:
            _count(unused, reason, region.end - region.start)
        else:
            _plan_sung(region, words, options, clips, unused)
    return ClipPlan(tuple(clips), unused)


def _count(unused: dict[str, float], reason: str, seconds: float) -> None:
    assert reason in UNUSED_REASONS, reason
    if seconds > _EPSILON:
        unused[reason] = unused.get(reason, 0.0) + seconds


def _find_units(
    duration: float,
    voiced: Sequence[Interval] | None,
    lines: Sequence[Interval],
    words: Sequence[Interval],
    options: SegmentOptions,
) -> list[_Unit]:
    """Return all passages that must not be cut, in order, without overlap."""
    if spans := merged(within(lines, duration)):
        units = [_Unit(*span, "line_too_long" if _exceeds(span, options) else "") for span in spans]
        alone = without(within(voiced or (), duration), spans)
        units += [
            _Unit(*span, "voice_without_lyrics") for span in alone if span[1] - span[0] > options.max_unmatched_seconds
        ]
        return sorted(units, key=lambda unit: unit.start)
    units = []
    # Without lines, the detector decides: words outside of detected voice are mostly hallucinated by the recognizer.
    for span in merged(within(words if voiced is None else voiced, duration)):
        if _exceeds(span, options):
            units += _divided_at_words(span, [word for word in words if span[0] <= word[0] < span[1]], options)
        else:
            units.append(_Unit(*span))
    return units


def _exceeds(span: Interval, options: SegmentOptions) -> bool:
    return span[1] - span[0] > options.max_seconds + _EPSILON


def _divided_at_words(span: Interval, words: Sequence[Interval], options: SegmentOptions) -> list[_Unit]:
    """Divide a passage of voice that is too long: between its words, or evenly if there are none."""
    # The time between two words belongs to neither, so the cut can be there. The ends belong to the outer words.
    edges = list(words) or [span]
    edges[0] = (span[0], edges[0][1])
    edges[-1] = (edges[-1][0], span[1])
    return [part for edge in edges for part in _divided(_Unit(*edge), options.max_seconds)]


def _divided(unit: _Unit, max_seconds: float) -> list[_Unit]:
    """Divide a unit that is longer than a clip into equal parts."""
    count = max(1, math.ceil((unit.end - unit.start) / max_seconds - _EPSILON))
    step = (unit.end - unit.start) / count
    times = [unit.start + step * index for index in range(count)] + [unit.end]
    return [_Unit(times[index], times[index + 1], unit.reason, is_joined=index > 0) for index in range(count)]


def _find_cut(before: _Unit, after: _Unit, voiced: Sequence[Interval], words: Sequence[Interval]) -> _Cut | None:
    """Return the best cut in the pause between two units; None if a word covers the whole pause."""
    if after.is_joined:
        return _Cut(before.end, 0.0, is_hard=True)
    if after.start - before.end <= _EPSILON:
        return None if _is_inside(before.end, words) else _Cut(before.end, 0.0)
    free = without([(before.end, after.start)], words)
    silent = without(free, voiced)
    if not free:
        return None
    start, end = max(silent or free, key=lambda span: span[1] - span[0])
    return _Cut((start + end) / 2, (end - start) * (1.0 if silent else VOICED_PAUSE_SHARE))


def _is_inside(time: float, intervals: Sequence[Interval]) -> bool:
    return any(start + _EPSILON < time < end - _EPSILON for start, end in intervals)


def _find_regions(
    duration: float,
    units: Sequence[_Unit],
    voiced: Sequence[Interval],
    words: Sequence[Interval],
    options: SegmentOptions,
) -> list[_Region]:
    """Divide the recording into regions without gaps."""
    regions: list[_Region] = []
    start = 0.0
    run: list[_Unit] = []
    cuts: list[_Cut] = []
    padding, max_pause = options.padding_seconds, options.max_pause_seconds
    for unit in units:
        if not run and unit.start > max_pause:
            start = _outside_words(unit.start - padding, unit.start, words)
            regions.append(_Region(0.0, start))
        elif run:
            last = run[-1]
            cut = _find_cut(last, unit, voiced, words)
            if unit.start - last.end > max_pause:
                end = _outside_words(last.end + padding, last.end, words)
                begin = _outside_words(unit.start - padding, unit.start, words)
                regions += [_Region(start, end, tuple(run), tuple(cuts)), _Region(end, begin)]
                run, cuts, start = [], [], begin
            elif unit.reason != last.reason or unit.reason:
                # A usable region ends where an unusable one begins, even if a word was heard across the border.
                time = cut.time if cut else (last.end + unit.start) / 2
                regions.append(_Region(start, time, tuple(run), tuple(cuts)))
                run, cuts, start = [], [], time
            elif cut is not None:
                cuts.append(cut)
            else:
                unit = _Unit(run.pop().start, unit.end)
        run.append(unit)
    if not run:
        return [*regions, _Region(start, duration)]
    end = duration
    if duration - run[-1].end > max_pause:
        end = _outside_words(run[-1].end + padding, run[-1].end, words)
    regions.append(_Region(start, end, tuple(run), tuple(cuts)))
    return regions if end == duration else [*regions, _Region(end, duration)]


def _outside_words(time: float, edge: float, words: Sequence[Interval]) -> float:
    """Return the time closest to `time`, towards the unit's edge, that is not inside a word."""
    for start, end in words:
        if start < time < end:
            return max(start, edge) if time > edge else min(end, edge)
    return time


def _instrumental_pieces(
    region: _Region, options: SegmentOptions, find_beats: FindBeats | None
) -> list[tuple[float, float]]:
    """Divide a passage without voice into pieces of about `target_seconds`, each of which ends on a beat."""
    seconds = region.end - region.start
    # Rather a little longer than two pieces that are too short.
    wanted = math.floor(seconds / options.target_seconds + 0.4)
    count = max(1, wanted, math.ceil(seconds / options.max_seconds - _EPSILON))
    if count == 1:
        return [(region.start, region.end)]
    step = seconds / count
    beats = sorted(find_beats(region.start, region.end)) if find_beats is not None else []
    # No piece may get longer than a clip, whatever beat is the nearest.
    reach = min(step / 2, (options.max_seconds - step) / 2)
    cuts = [region.start]
    for number in range(1, count):
        even = region.start + number * step
        nearest = min(beats, key=lambda beat: abs(beat - even), default=even)
        cuts.append(nearest if abs(nearest - even) <= reach else even)
    cuts.append(region.end)
    return list(zip(cuts, cuts[1:], strict=False))


def _plan_instrumental(
    pieces: Sequence[Interval],
    heard: Sequence[Interval],
    has_lines: bool,
    options: SegmentOptions,
    clips: list[PlannedClip],
    unused: dict[str, float],
) -> None:
    """Make clips of the pieces of a passage without voice."""
    if not options.keep_instrumental:
        _count(unused, INSTRUMENTAL, pieces[-1][1] - pieces[0][0])
        return
    for start, end in pieces:
        if has_lines and covered_seconds(heard, (start, end)) > options.max_unmatched_seconds:
            _count(unused, "voice_without_lyrics", end - start)
        elif end - start < options.min_seconds:
            _count(unused, "too_short", end - start)
        else:
            hard = sum(_is_inside(time, heard) for time in (start, end))
            clips.append(PlannedClip(start, end, INSTRUMENTAL, hard))


def _plan_sung(
    region: _Region,
    words: Sequence[Interval],
    options: SegmentOptions,
    clips: list[PlannedClip],
    unused: dict[str, float],
) -> None:
    """Divide a sung region at the lowest total cost (a shortest path over its cuts)."""
    edges = [_Cut(region.start, math.inf), *region.cuts, _Cut(region.end, math.inf)]
    costs = [0.0] + [math.inf] * len(region.units)
    previous = [0] * len(edges)
    for last in range(1, len(edges)):
        for first in range(last - 1, -1, -1):
            seconds = edges[last].time - edges[first].time
            if seconds > options.max_seconds + _EPSILON and last - first > 1:
                break
            cost = costs[first] + _piece_cost(seconds, edges[last], options)
            if cost < costs[last]:
                costs[last], previous[last] = cost, first
    bounds = [len(edges) - 1]
    while bounds[-1] > 0:
        bounds.append(previous[bounds[-1]])
    bounds.reverse()
    for first, last in zip(bounds, bounds[1:], strict=False):
        start, end = edges[first].time, edges[last].time
        if end - start > options.max_seconds + _EPSILON:
            unit = region.units[first]
            if unit.end - unit.start > options.max_seconds + _EPSILON:
                _count(unused, "line_too_long", end - start)
                continue
            trimmed = _trimmed(start, end, unit, words, options.max_seconds)
            _count(unused, "pause", end - start - (trimmed[1] - trimmed[0]))
            start, end = trimmed
        if end - start < options.min_seconds - _EPSILON:
            _count(unused, "too_short", end - start)
            continue
        joined = [edge.time for edge in (edges[first], edges[last]) if edge.is_hard]
        hard = sum(time in joined or _is_inside(time, words) for time in (start, end))
        clips.append(PlannedClip(start, end, SUNG, hard))


def _piece_cost(seconds: float, cut: _Cut, options: SegmentOptions) -> float:
    """Return the cost of a piece of this length that ends at this cut."""
    penalty = HARD_CUT_COST if cut.is_hard else math.exp(-cut.pause / PAUSE_SCALE)
    if seconds < options.min_seconds - _EPSILON:
        return UNUSABLE_COST * (1 + seconds) + penalty
    return (seconds / options.target_seconds - 1) ** 2 + penalty


def _trimmed(start: float, end: float, unit: _Unit, words: Sequence[Interval], max_seconds: float) -> Interval:
    """Shorten the pauses around a unit so that the piece is not longer than a clip may be."""
    begin = max(start, unit.start - (max_seconds - (unit.end - unit.start)) / 2)
    begin = _outside_words(begin, unit.start, words)
    return begin, _outside_words(min(end, begin + max_seconds), unit.end, words)
