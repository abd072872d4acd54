"""The step that measures how well transcripts and lyrics agree; filters set limits on these measures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from songgen.prepare.engine.record import FIRST, SECOND, TRANSCRIBED, JsonObject, SongRecord, Transcript
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.timing.lyrics_alignment import HEARD_SIMILARITY, align_units, written_lines
from songgen.prepare.timing.text_distance import comparable_units, edit_distance


@dataclass(frozen=True)
class AgreementOptions:
    """The section has no keys: limits on its measures are keys of `filter`."""


def agreement_measures(
    transcripts: Mapping[str, Transcript], lyrics: str, language: str, duration: float, *, is_transcribed: bool = False
) -> dict[str, float]:
    """Compare transcripts with each other and with the lyrics.

    - `words_per_second`: words of the first transcript divided by the length. A clip with lyrics, without words and
      without detected voice is an empty slice.
    - `transcript_confidence`: mean probability of its words.
    - `transcript_edit_distance`: the least number of words (characters in languages without blanks) to insert, delete
      or replace to turn one transcript into the other, ignoring case, punctuation and the spelling of numbers.
      The published data set names a "lyric edit distance" of 5 without a unit. It is taken as 5 words of a clip, since
      lyrics are learned clip by clip and a wrong word is wrong in a clip of any length.
    - `transcript_edit_share`: the distance divided by the length of the longer transcript, for limits that do not
      depend on length; 0 if both are empty.
    - `lyrics_coverage`: fraction of the words of the lyrics that the first transcript contains in the same order.
      Lyrics that are the first transcript are compared with the second one, or not at all.

    Args:
        transcripts: transcripts by step; measures of missing ones are left out.
        lyrics: lyrics of the same audio, with section tags.
        language: code of the language.
        duration: seconds.
        is_transcribed: whether the lyrics are the first transcript.
    """
    measures: dict[str, float] = {}
    units = {name: comparable_units(entry.text, language) for name, entry in transcripts.items()}
    if FIRST in transcripts:
        first = transcripts[FIRST]
        measures["words_per_second"] = len(first.words) / duration if duration else 0.0
        if first.confidence is not None:
            measures["transcript_confidence"] = first.confidence
    written = [unit for line in written_lines(lyrics) for unit in comparable_units(line.text, language)]
    other = SECOND if is_transcribed else FIRST
    if written and other in transcripts:
        _, similarities = align_units(written, units[other], [0] * len(written))
        measures["lyrics_coverage"] = sum(value >= HEARD_SIMILARITY for value in similarities) / len(written)
    if FIRST in transcripts and SECOND in transcripts:
        distance = edit_distance(units[FIRST], units[SECOND])
        measures["transcript_edit_distance"] = float(distance)
        measures["transcript_edit_share"] = distance / max(1, len(units[FIRST]), len(units[SECOND]))
    return measures


class AgreementStep(Step):
    """Measures agreement for each clip. It runs after cutting, since a value for a song says little about a clip."""

    name = "agreement"
    version = 2

    def __init__(self, options: AgreementOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return nothing, since the measures depend on the record alone."""
        return {}

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return lyrics, transcripts and length."""
        return {
            "lyrics": record.lyrics,
            "language": record.language,
            "duration": record.duration,
            "is_transcribed": record.lyrics_source == TRANSCRIBED,
            "transcripts": {name: asdict(entry) for name, entry in record.transcripts.items()},
        }

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return no file."""
        return []

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether there is a transcript."""
        return bool(record.transcripts)

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Measure each record."""
        return [
            StepOutput(
                {
                    "measures": agreement_measures(
                        record.transcripts,
                        record.lyrics,
                        record.language,
                        record.duration,
                        is_transcribed=record.lyrics_source == TRANSCRIBED,
                    )
                }
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
