"""The step that places lyrics in time."""

from collections.abc import Sequence
from dataclasses import asdict

from songgen.lyrics.text_language import language_of_text
from songgen.prepare.engine.record import FIRST, TRANSCRIBED, JsonObject, SongRecord, Transcript
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.timing.lyrics_alignment import AlignOptions, align_lyrics, lines_of_words, written_lines

SURE_LANGUAGE = 0.5
"""Probability below which the language that was heard does not count if no word of the given lyrics was heard."""


class AlignStep(Step):
    """Sets `lines` from the first transcript, and `lyrics`, `lyrics_source` and `language` if the record lacks them.

    Given lyrics get times and are not changed; without lyrics, the transcript becomes the lyrics. If nobody sings, the
    source is `instrumental`. Measures of given lyrics: `lyrics_coverage` (fraction of the words that were heard; near 0
    means the lyrics of another song, or a recognizer that fails) and `unsung_lines` (lines without times).
    """

    name = "align"
    version = 2

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
            "language_probability": record.measures.get("language_probability"),
            "is_instrumental": record.voiced == (),
            "transcript": asdict(transcript) if transcript else None,
        }

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return no file, since the transcript stands for the audio."""
        return []

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether no line has times yet."""
        return not record.lines

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Align each record."""
        return [StepOutput(self._changes(record)) for record in records]

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
        language = record.language or language_of_text(record.lyrics) or transcript.language
        changes["language"] = language
        if written:
            alignment = align_lyrics(written, transcript.words, language, self.options)
            lines = list(alignment.lines)
            if not record.language and not alignment.coverage and self._is_doubtful(record):
                changes["language"] = ""
            changes["measures"] = {
                "lyrics_coverage": alignment.coverage,
                "unsung_lines": float(len(alignment.unsung)),
            }
        else:
            lines = lines_of_words(transcript.words, language, self.options)
            changes["lyrics"] = "\n".join(line.text for line in lines)
            if lines:
                changes["lyrics_source"] = TRANSCRIBED
        changes["lines"] = [asdict(line) for line in lines]
        return changes

    @staticmethod
    def _is_doubtful(record: SongRecord) -> bool:
        """Return whether the language was only heard, and not with certainty."""
        found = record.measures.get("language_probability", 1.0)
        return not language_of_text(record.lyrics) and found < SURE_LANGUAGE


SECTION = Section("align", "when each line of the lyrics is sung", AlignOptions, Phase.SONGS, [AlignStep])
