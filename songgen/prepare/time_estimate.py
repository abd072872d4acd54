"""Expected time of a run, measured on a few of its songs before the others; their results are used again."""

import statistics
import time
from collections.abc import Sequence

from songgen.prepare.engine.phases import ESTIMATING
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.section import Section
from songgen.prepare.engine.step import SetStep, Step
from songgen.prepare.review.corrections import Corrections

SAMPLE_SONGS = 2
"""Number of songs that are measured; under `accelerate launch` at least one for each process."""

MIN_SONGS = 8
"""Fewest songs for which an estimate is made."""

MIN_SECONDS = 60.0
"""Shorter runs are not announced."""

NAMED_STEPS = 3
"""Number of steps, those that take longest, whose time is named."""


def estimate_time(
    runner: Runner,
    sections: Sequence[tuple[Section, Sequence[Step | SetStep]]],
    records: Sequence[SongRecord],
    corrections: Corrections,
) -> str:
    """Run the steps on some songs of usual length, and return how long all songs will take, in words.

    Every process of a launch calls this.

    Args:
        runner: of the run.
        sections: sections that follow, with their steps.
        records: all songs, with their durations.
        corrections: corrections by a person, which later steps depend on.

    Returns:
        A sentence; empty for few songs, for a short time, or if an earlier run has computed everything that was tried.
    """
    songs = [record for record in records if record.refusal is None and record.duration]
    if len(songs) < MIN_SONGS:
        return ""
    usual = statistics.median(record.duration for record in songs)
    count = max(SAMPLE_SONGS, runner.state.num_processes)
    chosen = sorted(songs, key=lambda record: (abs(record.duration - usual), record.id))[:count]
    share = sum(record.duration for record in chosen) / sum(record.duration for record in songs)
    seconds: dict[str, float] = {}
    computed = runner.num_computed
    sample: list[SongRecord] = list(chosen)
    with runner.within_phase(ESTIMATING):
        for section, steps in sections:
            for step in steps:
                begun, loaded = time.monotonic(), runner.loading_seconds
                sample = runner.run(step, sample)
                loading = runner.loading_seconds - loaded
                working = time.monotonic() - begun - loading
                seconds[step.name] = loading + working / share / runner.workers
            sample = corrections.apply(sample, section.phase)
    total = sum(seconds.values())
    if total < MIN_SECONDS or runner.num_computed == computed:
        return ""
    longest = sorted(seconds, key=lambda name: -seconds[name])[:NAMED_STEPS]
    parts = ", ".join(f"{name} {_in_words(seconds[name])}" for name in longest if seconds[name] >= MIN_SECONDS / 2)
    music = _in_words(sum(record.duration for record in songs))
    return (
        f"expected time: about {_in_words(total)} for {len(songs)} songs ({music} of music), measured on {len(chosen)} "
        f"of them{f' ({parts})' * bool(parts)}; a run that is interrupted can be resumed"
    )


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
