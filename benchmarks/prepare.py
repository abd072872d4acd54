"""Clips per second in each step of `songgen prepare`, and growth of the time per clip with the number of clips.

Songs are chords with noise in the rhythm of syllables, synthesized by the script; each becomes one clip. Steps that
need a model are left out unless a configuration names one. The time to load a step's network is reported separately,
because it does not grow. A step that looks at all clips together could grow faster than their number.

    python benchmarks/prepare.py [--clips 50 500] [--seconds 8] [--config CONFIG.json] [--workers 1]
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from accelerate.state import PartialState
from reporting import describe_machine

from songgen.prepare.config import PrepareConfig, config_of_values
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import SetStep, Step, WorkFolder
from songgen.prepare.inputs import read_songs
from songgen.prepare.preparation import finish

RATE = 16_000
SYLLABLES_PER_SECOND = 3
CHORD_SECONDS = 2.0
WARM_UP_CLIPS = 2


@dataclass(frozen=True)
class Timing:
    """Times of a step."""

    loading: float
    """Seconds to load the network."""

    working: float
    """Seconds for all clips."""


def write_song(path: Path, seconds: float, seed: int) -> None:
    """Write a song of random chords with noise in the rhythm of syllables."""
    generator = np.random.default_rng(seed)
    time_axis = np.arange(round(seconds * RATE)) / RATE
    chord_of = (time_axis / CHORD_SECONDS).astype(int)
    pitches = 110 * 2 ** (generator.integers(0, 36, size=(chord_of[-1] + 1, 3)) / 12)
    chords = np.sin(2 * np.pi * pitches[chord_of] * time_axis[:, None]).sum(axis=1)
    syllables = generator.normal(size=len(time_axis)) * (np.sin(np.pi * SYLLABLES_PER_SECOND * time_axis) > 0)
    soundfile.write(path, (0.1 * chords + 0.05 * syllables).astype(np.float32), RATE)


def build_songs(folder: Path, count: int, seconds: float) -> str:
    """Write songs and their manifest, and return its path."""
    folder.mkdir()
    rows = []
    for number in range(count):
        write_song(folder / f"{number}.wav", seconds, number)
        row = {"id": str(number), "audio": f"{number}.wav", "caption": f"a song, {60 + number} bpm", "language": "en"}
        rows.append(row | {"lyrics": f"la la {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "metadata.jsonl")


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of an action and its time in seconds."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def time_steps(config: PrepareConfig, workers: int) -> dict[str, Timing]:
    """Run everything once, and return the times of all steps, including reading and writing."""
    taken, seconds = timed(lambda: read_songs(config))
    records: list[SongRecord] = taken.records
    timings = {"(inputs)": Timing(0.0, seconds)}
    with Runner(WorkFolder(config.work_folder), PartialState(), workers) as runner:
        for _, steps in config.sections.steps():
            for step in steps:
                timings[step.name], records = time_step(runner, step, records)
    _, seconds = timed(lambda: finish(config, records, taken))
    timings["(data set)"] = Timing(0.0, seconds)
    return timings


def time_step(runner: Runner, step: Step | SetStep, records: list[SongRecord]) -> tuple[Timing, list[SongRecord]]:
    """Run one step; its network is loaded once more to measure the time of loading."""
    if isinstance(step, SetStep):
        changed, seconds = timed(lambda: runner.run_set(step, records))
        return Timing(0.0, seconds), changed
    _, loading = timed(copy.deepcopy(step).start)
    changed, seconds = timed(lambda: runner.run(step, records))
    return Timing(loading, max(seconds - loading, 1e-9)), changed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[50, 500], help="numbers of clips")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a clip")
    parser.add_argument("--config", type=Path, help="settings of the steps (inputs and output_dir are ignored)")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    arguments = parser.parse_args()
    values = json.loads(arguments.config.read_text(encoding="utf-8")) if arguments.config else {}
    print(f"{describe_machine()}; clips of {arguments.seconds:g} s, {arguments.workers} process(es)")
    found: dict[int, dict[str, Timing]] = {}
    for count in (WARM_UP_CLIPS, *arguments.clips):  # the first run imports libraries
        with tempfile.TemporaryDirectory() as folder:
            manifest = build_songs(Path(folder) / "songs", count, arguments.seconds)
            places = {"inputs": [manifest], "output_dir": str(Path(folder) / "out")}
            found[count] = time_steps(config_of_values(values | places), arguments.workers)
    first, last = arguments.clips[0], arguments.clips[-1]
    head = "".join(f"{count:>9} clips" for count in arguments.clips)
    print(f"{'':16}{'loading':>9}{head}{'growth':>9}   (clips per second; time per clip at {last} over {first})")
    for name in found[first]:
        rates = "".join(f"{count / found[count][name].working:>15.1f}" for count in arguments.clips)
        growth = (found[last][name].working / last) / (found[first][name].working / first)
        print(f"{name:16}{found[last][name].loading:>8.2f}s{rates}{growth:>8.2f}x")


if __name__ == "__main__":
    main()
