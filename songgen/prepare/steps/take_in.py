"""The step that checks songs on input: every file is decoded once, so that later steps can rely on it.

A file may hang or crash the decoder or fill the memory. So files are decoded in a separate process, as in tokenizing,
and such a file costs its song only.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from songgen.config.types import NonNegativeFloat, PositiveFloat, PositiveInt
from songgen.data.audio import AudioOptions
from songgen.data.manifests.clip import ClipRow, Rejection, TrackPath
from songgen.data.reading import BYTES_PER_GIB, AudioReaders, ReadingLimits
from songgen.data.reject_codes import REJECT_CODES
from songgen.prepare.describing.embedded_facts import read_embedded_facts
from songgen.prepare.engine.record import JsonObject, LyricLine, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, RefusalCode, Section, length_codes
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.source_quality import LOSSLESS, is_lossless
from songgen.tasks import MIX

LINES_BEYOND_END = "lyric_lines_beyond_end"
"""Measure of a song whose lyrics have times of another version: number of the lines that begin after its end."""

SONGS_PER_READER = 8
"""Songs that one reading process decodes; its start takes a fraction of a second, and a kill loses no more songs."""


_KEYS = {
    "too_short": "min_seconds",
    "too_long": "max_seconds",
    "track_lengths_differ": "length_tolerance_seconds",
    "audio_timeout": "audio_timeout_seconds",
    "audio_crash": "audio_memory_gib",
}
"""Code of a refusal -> the option that sets its limit."""

_ADVICE = {
    "file_missing": "The manifest names files that are not there: check its paths.",
    "truncated_audio": "Copy or download these files again: their ends are missing.",
    "unreadable_audio": "These files cannot be decoded: copy or convert them again.",
    "unsupported_format": "Convert these files to WAV, FLAC, OGG or MP3.",
}
"""Code of `songgen.data.reject_codes` -> what the report suggests."""


@dataclass(frozen=True)
class TakeInOptions:
    """Limits of the songs that are accepted."""

    min_seconds: NonNegativeFloat = 1.0
    """Shorter songs are refused."""

    max_seconds: PositiveFloat = 1800.0
    """Longer songs are refused before they are decoded: half an hour of mono samples at 48 kHz takes 350 MB, and later
    steps read each accepted song as a whole."""

    max_lyrics_length: PositiveInt = 30_000
    """Songs with more characters of lyrics are refused: aligning lyrics takes memory for each pair of a written and a
    heard word."""

    length_tolerance_seconds: NonNegativeFloat = 0.1
    """Largest difference between the lengths of a song's tracks; MP3 encoders add padding."""

    audio_timeout_seconds: PositiveFloat = 300.0
    """A song whose files take longer to decode is refused."""

    audio_memory_gib: PositiveFloat = 4.0
    """Memory limit of the decoding process in GiB; a song that needs more is refused. The longest song with three
    tracks at 48 kHz needs 2."""

    def __post_init__(self) -> None:
        """Check that some length is allowed.

        Raises:
            ValueError: If none is.
        """
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds: {self.min_seconds:g} is not less than max_seconds {self.max_seconds:g}")


class TakeInStep(Step):
    """Refuses songs with a file that cannot be decoded to its end, and measures length and energy of the others."""

    name = "take_in"
    version = 2
    batch_size = SONGS_PER_READER

    def __init__(self, options: TakeInOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return the limits."""
        return dataclasses.asdict(self.options)

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return which tracks there are, what is known of the song, and whether the lyrics are too long."""
        stated = [name for name in ("tempo", "key", "analysis") if getattr(record, name)]
        times = {"times": [(line.start, line.end) for line in record.lines]} if record.lines else {}
        return {
            "tracks": list(record.audio),
            "has_long_lyrics": self._has_long_lyrics(record),
            "stated": stated,
            **times,
        }

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Check the length of the lyrics, and decode every track of the songs that pass."""
        options = AudioOptions(
            sample_rate=0,  # that of the mix, since this only checks that every track can be decoded
            min_seconds=self.options.min_seconds,
            max_seconds=self.options.max_seconds,
            required_tracks=(MIX,),
            length_tolerance_seconds=self.options.length_tolerance_seconds,
        )
        memory = round(self.options.audio_memory_gib * BYTES_PER_GIB)
        with AudioReaders(options, ReadingLimits(self.options.audio_timeout_seconds, memory), count=1) as readers:
            return [self._take_in(record, folder, readers) for record in records]

    def _take_in(self, record: SongRecord, folder: WorkFolder, readers: AudioReaders) -> StepOutput:
        if self._has_long_lyrics(record):
            length, limit = len(record.lyrics), self.options.max_lyrics_length
            reason = f"the lyrics have {length} characters; take_in.max_lyrics_length is {limit}"
            return StepOutput(refusal=Refusal(self.name, "lyrics_too_long", reason, length, limit))
        tracks = {track: TrackPath(file, str(folder.path(file))) for track, file in record.audio.items()}
        clip = readers.check(ClipRow(record.id, "", "", "", tracks, record.file, record.line))
        if isinstance(clip, Rejection):
            limit_key = f" (take_in.{_KEYS[clip.code]})" if clip.code in _KEYS else ""
            return StepOutput(refusal=Refusal(self.name, clip.code, clip.reason + limit_key, Path(clip.path).name))
        changes: JsonObject = {"duration": clip.duration, "energies": clip.energies}
        changes |= self._of_file(record, folder.track(record, MIX))
        lines, num_beyond = _fitting_lines(record.lines, clip.duration)
        if lines != record.lines:
            changes["lines"] = [dataclasses.asdict(line) for line in lines]
        if num_beyond:
            changes["measures"] = {**changes.get("measures", {}), LINES_BEYOND_END: float(num_beyond)}
        return StepOutput(changes)

    def _of_file(self, record: SongRecord, path: Path) -> JsonObject:
        """Return what only the file itself shows: how it is encoded, and its tags where the song states nothing."""
        changes: JsonObject = {}
        lossless = is_lossless(path)
        if lossless is not None:
            changes["measures"] = {LOSSLESS: float(lossless)}
        facts = read_embedded_facts(path)
        if facts.tempo is not None and record.tempo is None:
            changes["tempo"] = facts.tempo
        if facts.key and not record.key:
            changes["key"] = facts.key
        if facts.genres and not record.analysis:
            changes["analysis"] = {"genre": list(facts.genres)}
        stated = {name: value for name, value in dataclasses.asdict(facts).items() if value}
        return changes | ({"provenance": {self.name: {"embedded": stated}}} if stated else {})

    def _has_long_lyrics(self, record: SongRecord) -> bool:
        return len(record.lyrics) > self.options.max_lyrics_length


def _fitting_lines(lines: tuple[LyricLine, ...], duration: float) -> tuple[tuple[LyricLine, ...], int]:
    """Return lines that end with the song at the latest, since ends may be estimates, and how many begin after it.

    If any begins after its end, the times are those of another version of the song, and no line is kept.
    """
    num_beyond = sum(line.start >= duration for line in lines)
    if num_beyond:
        return (), num_beyond
    return tuple(dataclasses.replace(line, end=min(line.end, duration)) for line in lines), 0


SECTION = Section(
    "take_in",
    "every audio file is opened and decoded once",
    TakeInOptions,
    Phase.SONGS,
    [TakeInStep],
    can_be_off=False,
    refusal_codes={
        **length_codes("too_short", "too_long", "lyrics_too_long"),
        **{code: RefusalCode(REJECT_CODES[code].meaning, advice) for code, advice in _ADVICE.items()},
    },
)
