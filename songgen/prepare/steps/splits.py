"""The step that holds out songs for evaluation: whole songs, chosen at random, the same in every run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import SetStep, StepOutcome, WorkFolder

TRAIN, EVALUATION = "train", "eval"


@dataclass(frozen=True)
class SplitOptions:
    """How held-out songs are chosen; songs whose input gives a split keep it.

    Raises:
        ValueError: If values are out of range; lists all problems.
    """

    eval_share: float = 0.0
    """Fraction of the songs to hold out."""

    eval_songs: int | None = None
    """Number of songs to hold out, instead of a fraction. null: `eval_share` counts."""

    min_train_text_length: int = 0
    """Songs in which every clip has fewer characters of lyrics are held out (short texts teach little), except
    instrumentals. 0: none."""

    seed: int = 42
    """Seed of the choice. The choice depends on each song's id alone, so that added songs do not move others."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if not 0 <= self.eval_share < 1:
            problems.append(f"eval_share must be at least 0 and below 1, got {self.eval_share}")
        if self.eval_songs is not None and self.eval_songs < 0:
            problems.append(f"eval_songs must be at least 0, got {self.eval_songs}")
        if self.min_train_text_length < 0:
            problems.append(f"min_train_text_length must be at least 0, got {self.min_train_text_length}")
        if problems:
            raise ValueError("; ".join(problems))


def assign_splits(records: Sequence[SongRecord], options: SplitOptions) -> list[str]:
    """Return the split of each record, which is the same for all records of a song.

    A song whose input gives a split keeps it (it is held out if its clips disagree), and the songs of its group (those
    with near-duplicate clips) follow it. Of the others, songs with short texts are held out first, then groups and
    single songs in the order of a hash of seed and name, until the number of songs is reached. At least one remains for
    training.
    """
    songs: dict[str, list[SongRecord]] = defaultdict(list)
    units: dict[str, list[SongRecord]] = defaultdict(list)
    for record in records:
        songs[record.song].append(record)
        units[record.group or record.song].append(record)
    chosen = {unit: _given_split(clips) for unit, clips in units.items()}
    for unit, clips in units.items():
        if not chosen[unit] and _has_short_texts(clips, options.min_train_text_length):
            chosen[unit] = EVALUATION
    split_of_song = {song: _given_split(clips) or chosen[clips[0].group or song] for song, clips in songs.items()}
    wanted = math.ceil(options.eval_share * len(songs)) if options.eval_songs is None else options.eval_songs
    missing = wanted - sum(split == EVALUATION for split in split_of_song.values())
    free = sorted((unit for unit, split in chosen.items() if not split), key=lambda unit: _place(options.seed, unit))
    trains = any(split == TRAIN for split in split_of_song.values())
    for unit in free[: len(free) - (not trains)]:
        if missing <= 0:
            break
        chosen[unit] = EVALUATION
        missing -= len({clip.song for clip in units[unit]})
    return [split_of_song[record.song] or chosen[record.group or record.song] or TRAIN for record in records]


def _given_split(clips: Sequence[SongRecord]) -> str:
    given = {clip.split for clip in clips}
    return EVALUATION if EVALUATION in given else TRAIN if TRAIN in given else ""


def _has_short_texts(clips: Sequence[SongRecord], length: int) -> bool:
    lengths = [len(clip.lyrics) for clip in clips if clip.lyrics]
    return bool(lengths) and max(lengths) < length


def _place(seed: int, song: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{song}".encode("utf-8", "replace")).digest()


class SplitStep(SetStep):
    """Gives every clip its split."""

    name = "split"
    version = 1

    def __init__(self, options: SplitOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return the options."""
        return dataclasses.asdict(self.options)

    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Assign splits; a record that has its split already is not changed."""
        splits = assign_splits(records, self.options)
        return [
            StepOutcome() if record.split == split else StepOutcome({"split": split})
            for record, split in zip(records, splits, strict=True)
        ]


SECTION = Section("split", "which songs are held out", SplitOptions, Phase.DESCRIBED, [SplitStep])
