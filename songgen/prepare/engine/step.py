"""What a step of the preparation is: the interface that the runner knows.

A step's result for a record is kept under a key: a hash of the step's name, version, parameters and those values of the
record (and contents of its files) that the result depends on. A result that is there is used again; so a killed run
goes on, a second run does nothing, and a changed parameter or file redoes exactly what depends on it.
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
    """What a step found for one record: changes, or clips that take its place, or a reason to leave it out."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """JSON values of fields of the record; see `SongRecord.changed`."""

    clips: tuple[SongRecord, ...] | None = None
    """Records that replace this one; None where it stays one."""

    refusal: Refusal | None = None
    """Why the record is left out from here on (it is carried along, and later steps do not see it)."""


@dataclass(frozen=True)
class WorkFolder:
    """Where the preparation keeps its files."""

    root: Path
    """Work folder; paths in records are relative to it."""

    def path(self, file: str) -> Path:
        """Full path of a file that a record names."""
        return self.root / file

    def track(self, record: SongRecord, track: str) -> Path:
        """Full path of a record's track.

        Raises:
            KeyError: the record has no such track.
        """
        return self.path(record.audio[track])

    def new_file(self, step: str, record: SongRecord, track: str, suffix: str = ".wav") -> str:
        """Name, relative to the root, of an audio file that a step writes; its folder exists afterwards."""
        file = Path("audio") / step / f"{record.id}.{track}{suffix}"
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        return file.as_posix()


class Step(ABC):
    """One step over single records. An object is small and can be sent to another process; `start` loads networks."""

    name: ClassVar[str]
    """In the configuration, in provenance, on the screen."""

    version: ClassVar[int]
    """Raised when the code gives other results than before."""

    batch_size: int = 1
    """Records that `run` gets at once."""

    @classmethod
    def is_wanted(cls, options: Any) -> bool:
        """Return whether the section's options ask for this step."""
        return True

    @abstractmethod
    def parameters(self) -> JsonObject:
        """Everything besides the record that the result depends on, as JSON values (model ids with revisions)."""

    @abstractmethod
    def inputs(self, record: SongRecord) -> JsonObject:
        """The values of the record that the result depends on (not `id`; file contents are added for `files`)."""

    def files(self, record: SongRecord) -> Sequence[str]:
        """Files of the record whose contents the result depends on."""
        return list(record.audio.values())

    def is_needed(self, record: SongRecord) -> bool:
        """Whether the record lacks what the step finds."""
        return True

    def start(self) -> None:  # noqa: B027 - most steps have nothing to load
        """Load what `run` needs (once in each process that works on this step)."""

    @abstractmethod
    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Work on a batch; one outcome for each record, in order.

        What is wrong with a record becomes a refusal. What is wrong with the machine or the configuration (no memory, a
        model that cannot be loaded) is raised: `ValueError` with the way out.
        """


class SetStep(ABC):
    """A step that looks at all records together: near-duplicates, splits. It runs in the main process, every time."""

    name: ClassVar[str]
    """In the configuration, in provenance, on the screen."""

    version: ClassVar[int]
    """Raised when the code gives other results than before."""

    @classmethod
    def is_wanted(cls, options: Any) -> bool:
        """Return whether the section's options ask for this step."""
        return True

    @abstractmethod
    def parameters(self) -> JsonObject:
        """Everything besides the records that the result depends on, as JSON values."""

    @abstractmethod
    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Work on all records that are still in; one outcome for each, in order; a function of its arguments alone."""
