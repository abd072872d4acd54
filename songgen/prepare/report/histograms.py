"""Histograms of what was measured of the clips."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.sections import CUTTING_STEP
from songgen.prepare.steps.filters import FilterOptions
from songgen.tasks import ACCOMPANIMENT, VOCAL

MAX_BINS = 24
"""Largest number of bars of a histogram."""

FIGURES: tuple[tuple[str, str, str, Callable[[SongRecord], float | None], tuple[str, ...]], ...] = (
    ("duration", "Length", "s", lambda record: record.duration or None, ("min_seconds", "max_seconds")),
    ("tempo", "Tempo", "beats a minute", lambda record: record.tempo, ()),
    ("vocal_energy", "Energy of the vocal", "", lambda record: record.energies.get(VOCAL), ("min_vocal_energy",)),
    ("acc_energy", "Energy of the accompaniment", "", lambda record: record.energies.get(ACCOMPANIMENT),
     ("min_acc_energy",)),
    ("loudness", "Loudness", "LUFS", lambda record: record.measures.get("loudness"), ("min_loudness", "max_loudness")),
    ("clap_score", "Caption and sound (CLAP)", "", lambda record: record.measures.get("clap_score"),
     ("min_clap_score",)),
    ("transcript_edit_distance", "Difference of two transcripts", "words",
     lambda record: record.measures.get("transcript_edit_distance"), ("max_transcript_edit_distance",)),
    ("transcript_edit_share", "Difference of two transcripts", "share of the words",
     lambda record: record.measures.get("transcript_edit_share"), ("max_transcript_edit_share",)),
    ("lyrics_coverage", "Lyrics that were heard", "share", lambda record: record.measures.get("lyrics_coverage"),
     ("min_lyrics_coverage",)),
)  # fmt: skip
"""(name, label, unit, function of the record, limits of the filter)."""


def histograms(records: Sequence[SongRecord], filters: FilterOptions | None) -> list[JsonObject]:
    """Return a histogram of accepted and refused clips for each measurement."""
    found: list[JsonObject] = []
    for name, label, unit, value_of, limits in FIGURES:
        values = {True: [], False: []}  # type: dict[bool, list[float]]
        for record in records:
            value = value_of(record)
            # Whole songs that were never cut would dominate the lengths.
            is_clip = record.refusal is None or CUTTING_STEP in record.provenance or record.id != record.song
            if value is not None and math.isfinite(value) and is_clip:
                values[record.refusal is None].append(float(value))
        everything = values[True] + values[False]
        if not everything:
            continue
        edges = bin_edges(min(everything), max(everything))
        bounds = [] if filters is None else [filters.limit(limit) for limit in limits]
        found.append(
            {
                "name": name,
                "label": label,
                "unit": unit,
                "edges": edges,
                "accepted": np.histogram(values[True], edges)[0].tolist(),
                "refused": np.histogram(values[False], edges)[0].tolist(),
                "median": float(np.median(values[True])) if values[True] else None,
                "limits": [bound for bound in bounds if bound is not None],
            }
        )
    return found


def bin_edges(low: float, high: float) -> list[float]:
    """Return edges of at most `MAX_BINS` bins from low to high; their width is 1, 2 or 5 times a power of ten."""
    # Nearly equal values get a margin, so that a single bar has a meaningful position.
    room = 0.02 * max(1.0, abs(high))
    if high - low < room:
        low, high = max(low - room, 0.0) if low >= 0 else low - room, high + room
    spread = high - low
    power = 10.0 ** math.floor(math.log10(spread / MAX_BINS))
    for width in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / width), math.floor(high / width) + 1
        if last - first <= MAX_BINS:
            break
    return [round(index * width, 9) for index in range(first, last + 1)]
