"""The step that places lyrics in time."""

from collections.abc import Sequence
from dataclasses import asdict

from songgen.prepare.engine.record import FIRST, JsonObject, SongRecord, Transcript
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutcome, WorkFolder
from songgen.prepare.timing.lyrics_alignment import AlignOptions, align_lyrics, lines_of_words, written_lines


class AlignStep(Step):
    """Sets `lines` from the first transcript, and `lyrics`, `lyrics_source` and `language` if the record lacks them.

    Given lyrics get times and are not changed; without lyrics, the transcript becomes the lyrics. If nobody sings, the
    source is `instrumental`. Measures of given lyrics: `lyrics_coverage` (fraction of the words that were heard; near 0
    means the lyrics of another song, or a recognizer that fails) and `unsung_lines` (lines without times).
    """

    name = "align"
    version = 1

    def __init__(self, options: AlignOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return all options."""
        return asdict(self.options)

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the lyrics and the first transcript."""
        transcript = record.transcripts.get(FIRST)
        return {
            "lyrics": record.lyrics,
            "lyrics_source": record.lyrics_source,
            "language": record.language,
            "is_instrumental": record.voiced == (),
            "transcript": asdict(transcript) if transcript else None,
        }

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return no file, since the transcript stands for the audio."""
        return []

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether no line has times yet."""
        return not record.lines

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Align each record."""
        return [StepOutcome(self._changes(record)) for record in records]

    def _changes(self, record: SongRecord) -> JsonObject:
        transcript = record.transcripts.get(FIRST)
        if transcript is None and record.voiced == ():
            # Nobody sings, so there was nothing to transcribe.
            transcript = Transcript("", record.language, None)
        changes: JsonObject = {}
        written = written_lines(record.lyrics)
        if written:
            changes["lyrics_source"] = record.lyrics_source or "given"
        elif record.voiced == ():
            changes["lyrics_source"] = "instrumental"
        if transcript is None:
            return changes
        language = record.language or transcript.language
        changes["language"] = language
        if written:
            alignment = align_lyrics(written, transcript.words, language, self.options)
            lines = list(alignment.lines)
            changes["measures"] = {
                "lyrics_coverage": alignment.coverage,
                "unsung_lines": float(len(alignment.unsung)),
            }
        else:
            lines = lines_of_words(transcript.words, language, self.options)
            changes["lyrics"] = "\n".join(line.text for line in lines)
            if lines:
                changes["lyrics_source"] = "transcribed"
        changes["lines"] = [asdict(line) for line in lines]
        return changes


SECTION = Section("align", "when each line of the lyrics is sung", AlignOptions, Phase.SONGS, [AlignStep])
