"""Small steps over records that have no audio, to run the machinery of the preparation with."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.step import SetStep, Step, StepOutcome, WorkFolder


def make_record(name: str, **fields: Any) -> SongRecord:
    return SongRecord(**{"id": name, "song": name, "file": "songs.jsonl", "line": 1, **fields})


@dataclass
class ShoutStep(Step):
    """Writes the caption in capital letters; refuses what has none; fails on `unlucky`."""

    ending: str = "!"
    unlucky: str | None = None
    batch_size: int = 2

    name = "shout"
    version = 1

    def parameters(self) -> JsonObject:
        return {"ending": self.ending}

    def inputs(self, record: SongRecord) -> JsonObject:
        return {"caption": record.caption}

    def start(self) -> None:
        self._network = str.upper

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        assert len(records) <= self.batch_size
        return [self._shout(record) for record in records]

    def _shout(self, record: SongRecord) -> StepOutcome:
        if record.id == self.unlucky:
            raise KeyError("no such luck")
        if record.caption == "die":
            os.kill(os.getpid(), 9)
        if not record.caption:
            return StepOutcome(refusal=Refusal(self.name, "no_caption", "there is nothing to shout"))
        return StepOutcome(
            {"caption": self._network(record.caption) + self.ending, "measures": {"process": os.getpid()}}
        )


@dataclass
class LongStep(ShoutStep):
    """Takes very long over what is called `long`, and leaves a file when it has done it."""

    batch_size: int = 1

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        if records[0].caption == "long":
            time.sleep(15)
            (folder.root / "done").touch()
        return super().run(records, folder)


@dataclass
class CutStep(Step):
    """Cuts a record into two clips, each with a file of its own."""

    name = "cut"
    version = 1

    def parameters(self) -> JsonObject:
        return {}

    def inputs(self, record: SongRecord) -> JsonObject:
        return {"caption": record.caption}

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        return [self._cut(record, folder) for record in records]

    def _cut(self, record: SongRecord, folder: WorkFolder) -> StepOutcome:
        clips = []
        for number in (0, 1):
            clip = replace(record, id=f"{record.id}_{number:03d}", start=float(number))
            file = folder.new_file(self.name, clip, "mix")
            folder.path(file).write_text(f"{record.caption} {number}")
            clips.append(replace(clip, audio={"mix": file}))
        return StepOutcome(clips=tuple(clips))


@dataclass
class LastStep(SetStep):
    """Refuses all but the first record."""

    name = "last"
    version = 3

    def parameters(self) -> JsonObject:
        return {"keep": 1}

    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        refusal = Refusal(self.name, "too_late", "only the first is kept")
        return [StepOutcome() if number == 0 else StepOutcome(refusal=refusal) for number, _ in enumerate(records)]
