"""How far transcripts and lyrics agree: the figures by which the filters judge lyrics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from songgen.prepare.engine.record import FIRST, SECOND, JsonObject, SongRecord, Transcript
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutcome, WorkFolder
from songgen.prepare.timing.lyrics_alignment import HEARD_SIMILARITY, align_units, written_lines
from songgen.prepare.timing.text_distance import comparable_units, edit_distance


@dataclass(frozen=True)
class AgreementOptions:
    """There is nothing to set: the figures have no limits of their own, which are the filter's."""


def agreement_measures(
    transcripts: Mapping[str, Transcript], lyrics: str, language: str, duration: float
) -> dict[str, float]:
    """Compare what was heard with itself and with the lyrics.

    - `words_per_second`: words of the first transcript over the length. A clip with none, and a silent vocal track, is
      an empty slice.
    - `transcript_confidence`: mean probability of its words.
    - `transcript_edit_distance`: the least number of words (characters in languages without blanks) to insert, delete
      or replace to turn one transcript into the other, case, punctuation and the spelling of numbers aside. The
      published data set names a "lyric edit distance" of 5 without a unit; it is taken as 5 words of a clip, because
      the lyrics are learned clip by clip and a wrong word is wrong however long the clip is.
    - `transcript_edit_share`: the same over the length of the longer transcript, for limits that do not depend on
      length; 0 where both heard nothing.
    - `lyrics_coverage`: share of the words of the lyrics that the first transcript holds, in their order.

    Args:
        transcripts: by step; what is missing is left out of the result.
        lyrics: of the same audio, with section tags.
        language: code of the language.
        duration: seconds.
    """
    measures: dict[str, float] = {}
    units = {name: comparable_units(entry.text, language) for name, entry in transcripts.items()}
    if FIRST in transcripts:
        first = transcripts[FIRST]
        measures["words_per_second"] = len(first.words) / duration if duration else 0.0
        if first.confidence is not None:
            measures["transcript_confidence"] = first.confidence
        written = [unit for line in written_lines(lyrics) for unit in comparable_units(line.text, language)]
        if written:
            _, similarities = align_units(written, units[FIRST], [0] * len(written))
            measures["lyrics_coverage"] = sum(value >= HEARD_SIMILARITY for value in similarities) / len(written)
    if FIRST in transcripts and SECOND in transcripts:
        distance = edit_distance(units[FIRST], units[SECOND])
        measures["transcript_edit_distance"] = float(distance)
        measures["transcript_edit_share"] = distance / max(1, len(units[FIRST]), len(units[SECOND]))
    return measures


class AgreementStep(Step):
    """Measures agreement clip by clip; it stands behind the cutting, since a limit for a song says little of a clip."""

    name = "agreement"
    version = 1

    def __init__(self, options: AgreementOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return nothing: the figures depend on the record alone."""
        return {}

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return lyrics, transcripts and length."""
        return {
            "lyrics": record.lyrics,
            "language": record.language,
            "duration": record.duration,
            "transcripts": {name: asdict(entry) for name, entry in record.transcripts.items()},
        }

    def files(self, record: SongRecord) -> Sequence[str]:
        """No file."""
        return []

    def is_needed(self, record: SongRecord) -> bool:
        """Where somebody listened."""
        return bool(record.transcripts)

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Measure each record."""
        return [
            StepOutcome(
                {"measures": agreement_measures(record.transcripts, record.lyrics, record.language, record.duration)}
            )
            for record in records
        ]


SECTION = Section(
    "agreement",
    "how far two transcripts, or transcript and lyrics, agree, clip by clip",
    AgreementOptions,
    Phase.CLIPS,
    [AgreementStep],
)
