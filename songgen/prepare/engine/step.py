"""The interface of a step, as the runner uses it.

A step's result for a record is stored under a key: a hash of the step's name, version, parameters and those values of
the record (and contents of its files) that the result depends on. An existing result is used again. So a killed run is
resumed, a second run does nothing, and a changed parameter or file repeats exactly the work that depends on it.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step for one record: changes, or clips that replace it, or a reason to leave it out."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """JSON values of fields of the record; see `SongRecord.changed`."""

    clips: tuple[SongRecord, ...] | None = None
    """Records that replace this one; None if it is not replaced."""

    refusal: Refusal | None = None
    """Why the record is left out from here on (it is kept in the list, but later steps do not see it)."""


@dataclass(frozen=True)
class WorkFolder:
    """The folder in which the preparation keeps its files."""

    root: Path
    """Path of the folder; paths in records are relative to it."""

    def path(self, file: str) -> Path:
        """Return the full path of a file that a record names."""
        return self.root / file

    def track(self, record: SongRecord, track: str) -> Path:
        """Return the full path of a record's track.

        Raises:
            KeyError: If the record does not have the track.
        """
        return self.path(record.audio[track])

    def new_file(self, step: str, record: SongRecord, track: str, suffix: str = ".wav") -> str:
        """Return the name, relative to the root, of an audio file to write, and create its folder."""
        file = Path("audio") / step / f"{record.id}.{track}{suffix}"
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        return file.as_posix()


class Step(ABC):
    """A step over single records. An object is small and can be sent to another process; `start` loads networks."""

    name: ClassVar[str]
    """Name in results, provenance and progress output."""

    version: ClassVar[int]
    """Version, incremented when the code gives other results than before."""

    batch_size: int = 1
    """Number of records that `run` gets at once."""

    @classmethod
    def is_wanted(cls, options: Any) -> bool:
        """Return whether the section's options ask for this step."""
        return True

    @abstractmethod
    def parameters(self) -> JsonObject:
        """Return everything except the record that the result depends on, as JSON values (model ids with revisions)."""

    @abstractmethod
    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the record's values that the result depends on (not `id`; contents are added for `files`)."""

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the files of the record whose contents the result depends on."""
        return list(record.audio.values())

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether the record lacks the values that the step finds."""
        return True

    def start(self) -> None:  # noqa: B027 - most steps have nothing to load
        """Load everything that `run` needs (once in each process that works on this step)."""

    @abstractmethod
    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Process a batch and return one outcome for each record, in order.

        A problem of a record becomes a refusal. A problem of the machine or the configuration (no memory, a model that
        cannot be loaded) is raised as a `ValueError` with a suggested fix.
        """


class SetStep(ABC):
    """A step over all records together, such as duplicates and splits. It runs in the main process in every run."""

    name: ClassVar[str]
    """Name in results, provenance and progress output."""

    version: ClassVar[int]
    """Version, incremented when the code gives other results than before."""

    @classmethod
    def is_wanted(cls, options: Any) -> bool:
        """Return whether the section's options ask for this step."""
        return True

    @abstractmethod
    def parameters(self) -> JsonObject:
        """Return everything except the records that the result depends on, as JSON values."""

    @abstractmethod
    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Process all records that are not refused; return one outcome for each, a function of the arguments alone."""
