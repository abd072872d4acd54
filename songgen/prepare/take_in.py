"""Songs at the door: every file is opened and decoded once, so that later steps can rely on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from songgen.config.types import NonNegativeFloat, PositiveFloat
from songgen.data.audio import AudioOptions, AudioRejected, check_header, read_clip
from songgen.data.clip import ClipRow, Rejection, TrackPath
from songgen.prepare.record import JsonObject, Refusal, SongRecord
from songgen.prepare.step import Outcome, Step, WorkFolder
from songgen.tasks import MIX


@dataclass(frozen=True)
class TakeInOptions:
    """What songs are accepted."""

    min_seconds: NonNegativeFloat = 1.0
    """Shorter songs are refused."""

    max_seconds: PositiveFloat = 1800.0
    """Longer songs are refused before they are decoded: half an hour of mono samples at 48 kHz takes 350 MB."""

    length_tolerance_seconds: NonNegativeFloat = 0.1
    """Tracks of one song may differ in length by this; MP3 encoders pad."""

    def __post_init__(self) -> None:
        """Check that some length is allowed.

        Raises:
            ValueError: if none is.
        """
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds: {self.min_seconds:g} is not less than max_seconds {self.max_seconds:g}")


class TakeInStep(Step):
    """Refuses songs with a file that cannot be decoded to its end, and measures length and energy of the others."""

    name = "take_in"
    version = 1

    def __init__(self, options: TakeInOptions) -> None:
        """Keep the options."""
        self.options = options

    def parameters(self) -> JsonObject:
        """Return the limits."""
        return {
            "min_seconds": self.options.min_seconds,
            "max_seconds": self.options.max_seconds,
            "length_tolerance_seconds": self.options.length_tolerance_seconds,
        }

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return which tracks there are."""
        return {"tracks": list(record.audio)}

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[Outcome]:
        """Decode every track of every song."""
        return [self._take_in(record, folder) for record in records]

    def _take_in(self, record: SongRecord, folder: WorkFolder) -> Outcome:
        tracks = {track: TrackPath(file, str(folder.path(file))) for track, file in record.audio.items()}
        row = ClipRow(record.id, "", "", "", tracks, record.file, record.line)
        options = AudioOptions(
            sample_rate=0,
            min_seconds=self.options.min_seconds,
            max_seconds=self.options.max_seconds,
            required_tracks=(MIX,),
            length_tolerance_seconds=self.options.length_tolerance_seconds,
        )
        try:
            header = check_header(Path(tracks[MIX].resolved), options)
        except AudioRejected as error:
            return Outcome(refusal=Refusal(self.name, error.code, error.reason, Path(record.audio[MIX]).name))
        # At the file's own rate nothing is resampled: what counts here is that it can be decoded.
        clip = read_clip(row, replace(options, sample_rate=header.sample_rate))
        if isinstance(clip, Rejection):
            return Outcome(refusal=Refusal(self.name, clip.code, clip.reason, Path(clip.path).name))
        return Outcome({"duration": clip.duration, "energies": clip.energies})
