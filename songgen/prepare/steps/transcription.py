"""The steps that transcribe songs: division into chunks, choice of the language, and one or two recognizers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from songgen.data.audio import AudioRejected
from songgen.lyrics.text_language import language_of_text
from songgen.prepare.engine.audio_files import read_audio, resample_frames
from songgen.prepare.engine.record import FIRST, SECOND, JsonObject, Refusal, SongRecord, Transcript, Word
from songgen.prepare.engine.section import HubNetwork, Phase, RefusalCode, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.hearing import Guards, most_probable_language
from songgen.prepare.listening.tempo_key import ANALYSIS_RATE, onset_strength
from songgen.prepare.timing.intervals import Interval
from songgen.prepare.timing.text_distance import base_language, joiner
from songgen.prepare.timing.word_onsets import place_words

if TYPE_CHECKING:
    from songgen.prepare.listening.recognizer import Recognizer

NUM_LANGUAGE_CHUNKS = 3
"""Number of a song's longest chunks from which its language is found."""

QUIET_BLOCK_SECONDS = 0.05
"""A chunk that must end inside a voiced passage ends in the quietest block of this length."""

QUIET_SEARCH_SHARE = 0.25
"""Last part of a chunk in which the quietest block is searched."""


UNKNOWN_LANGUAGE = "language_not_recognizable"

SKIPPED = "skipped"
"""In the provenance of the second model: why it did not transcribe a song."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TranscribeOptions:
    """Recognizers, and the limits beyond which their text is rejected."""

    model: str = "openai/whisper-large-v3"
    """Hub id or folder of a Whisper model with a safetensors file. Its transcript becomes the lyrics of songs without
    any, and gives the times of given lyrics."""

    revision: str = ""
    """Branch, tag or commit of the model on the hub; empty for the main branch. Its first commit is kept in the work
    folder (`networks.json`) and used by all later runs."""

    agreement_model: str = ""
    """Second model, whose transcript is only compared with the first one; empty for none. Songs in a language that it
    does not know are not compared."""

    agreement_revision: str = ""
    """Branch, tag or commit of the second model."""

    compression_ratio_limit: float = 2.4
    """Highest compression ratio of a chunk's text; a higher one means repetition. The chunk is retried, then left
    out."""

    log_probability_limit: float = -1.0
    """Lowest mean log probability of a chunk's tokens; below, the chunk is retried, then left out."""

    no_speech_limit: float = 0.6
    """No-speech probability above which a chunk of low log probability counts as silent."""

    retries: int = 5
    """Number of retries of a rejected chunk, each sampled at a temperature higher by 0.2."""

    chunk_seconds: float = 30.0
    """Longest chunk; Whisper takes at most 30 s."""

    batch_size: int = 8
    """Number of chunks, and of songs, that are processed at once."""

    device: str = ""
    """Device of the networks, such as `cuda:0`; empty for the GPU if there is one."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if not self.model:
            problems.append("model is empty: name a Whisper model, or set the section to null")
        if self.agreement_model == self.model and self.agreement_revision == self.revision:
            problems.append(f"agreement_model is the same model ({self.model}); name a different one")
        if not 1 <= self.chunk_seconds <= 30:
            problems.append(f"chunk_seconds must be between 1 and 30, got {self.chunk_seconds:g}")
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, got {self.batch_size}")
        if self.retries < 0:
            problems.append(f"retries must not be negative, got {self.retries}")
        if not 0 <= self.no_speech_limit <= 1:
            problems.append(f"no_speech_limit must be between 0 and 1, got {self.no_speech_limit:g}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def guards(self) -> Guards:
        """Limits beyond which a text is rejected."""
        return Guards(self.compression_ratio_limit, self.log_probability_limit, self.no_speech_limit, self.retries)


def chunk_intervals(
    voiced: Sequence[Interval], seconds: float, samples: np.ndarray | None = None, sample_rate: int = 1
) -> list[Interval]:
    """Join voiced intervals into chunks that are as long as possible, but not longer than `seconds`.

    A chunk begins and ends with an interval, so that nothing sung is left out or transcribed twice. A single interval
    that is too long is cut at its quietest place in the last quarter of the chunk, if samples are given.

    Args:
        voiced: (start, end) in seconds, in order.
        seconds: longest chunk.
        samples: mono audio in which quiet places are searched; None cuts at the limit.
        sample_rate: sample rate of `samples`.
    """
    chunks: list[Interval] = []
    for start, end in voiced:
        if chunks and end - chunks[-1][0] <= seconds:
            chunks[-1] = (chunks[-1][0], end)
            continue
        while end - start > seconds:
            cut = start + seconds
            if samples is not None:
                cut = _quietest(samples, sample_rate, cut - QUIET_SEARCH_SHARE * seconds, cut)
            chunks.append((start, cut))
            start = cut
        if end > start:
            chunks.append((start, end))
    return chunks


def _quietest(samples: np.ndarray, sample_rate: int, low: float, high: float) -> float:
    """Return the middle of the quietest block between two times."""
    length = max(1, round(QUIET_BLOCK_SECONDS * sample_rate))
    first = round(low * sample_rate)
    blocks = samples[first : round(high * sample_rate)]
    blocks = blocks[: len(blocks) // length * length].reshape(-1, length)
    if not len(blocks):
        return high
    return (first + (int(np.argmin(np.square(blocks).sum(axis=1))) + 0.5) * length) / sample_rate


def within_voice(words: Sequence[Word], voiced: Sequence[Interval]) -> list[Word]:
    """Clip each word to the voiced interval in which it begins, or else to that which contains most of it.

    A word lasts until the next one begins, even after a long pause, so the interval is that in which it begins. A word
    outside of all intervals is not changed.

    Args:
        words: words in order; so are the results, and none begins before the previous one.
        voiced: (start, end) in seconds, in order.
    """
    limited: list[Word] = []
    for word in words:
        overlaps = [min(word.end, end) - max(word.start, start) for start, end in voiced]
        if overlaps and max(overlaps) > 0:
            begins_in = [index for index, (start, end) in enumerate(voiced) if start <= word.start < end]
            start, end = voiced[begins_in[0] if begins_in else int(np.argmax(overlaps))]
            word = replace(word, start=max(word.start, start), end=min(word.end, end))
        if limited and word.start < limited[-1].start:
            word = replace(word, start=limited[-1].start, end=max(word.end, limited[-1].start))
        limited.append(word)
    return limited


@dataclass(frozen=True)
class _Song:
    """A record with its audio, chunks and language."""

    samples: np.ndarray
    voiced: tuple[Interval, ...] | None
    chunks: list[Interval]
    language: str
    language_probability: float | None


def _placed(words: Sequence[Word], begin: float, song: _Song, sample_rate: int) -> list[Word]:
    """Return the words of a chunk where they sound, with times from the start of the song.

    Args:
        words: with times from the start of the chunk.
        begin: start of the chunk.
        song: with the chunk.
        sample_rate: of its samples.
    """
    if not words:
        return []
    end = next(chunk[1] for chunk in song.chunks if chunk[0] == begin)
    samples = _cut(song.samples, sample_rate, (begin, end))
    onsets = onset_strength(resample_frames(samples[:, None], sample_rate, ANALYSIS_RATE)[:, 0])
    voiced = song.voiced and [(max(start, begin) - begin, min(stop, end) - begin) for start, stop in song.voiced
                              if stop > begin and start < end]  # fmt: skip
    placed = place_words(words, onsets, voiced, song.language)
    return [replace(word, start=begin + word.start, end=min(begin + word.end, end)) for word in placed]


class TranscribeStep(Step):
    """Stores the transcript of the vocal track, or of the mix of a song that was not separated.

    The language is that of the record, or else of its lyrics, or else the most probable one of the song's longest
    chunks. The step also stores
    the measures `transcript_confidence`, `transcript_doubted_seconds` (chunks whose text was
    rejected) and `language_probability` (of the chosen language; a low value suggests a wrong label).
    """

    name: ClassVar[str] = FIRST
    version = 2

    def __init__(self, options: TranscribeOptions) -> None:
        self.options = options
        self.batch_size = options.batch_size
        self._recognizer: Recognizer | None = None

    @property
    def _model(self) -> tuple[str, str]:
        """Return model and revision of this step."""
        return self.options.model, self.options.revision

    def parameters(self) -> JsonObject:
        """Return all options except device and batch size."""
        model, revision = self._model
        chunk_seconds = self.options.chunk_seconds
        return {"model": model, "revision": revision, "chunk_seconds": chunk_seconds, **asdict(self.options.guards)}

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return track, voiced intervals and language, which may be that of the lyrics."""
        language = record.language or language_of_text(record.lyrics)
        return {"track": record.heard_track, "voiced": record.voiced, "language": language}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the track that is transcribed."""
        return [record.audio[record.heard_track]]

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether the song is not an instrumental and has no transcript of this step yet."""
        return record.voiced != () and self.name not in record.transcripts

    def start(self) -> None:
        """Load the model."""
        from songgen.prepare.listening.recognizer import Recognizer

        self._recognizer = Recognizer(*self._model, self.options.device)

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Transcribe the chunks of all songs of the batch together."""
        songs = [self._open(record, folder) for record in records]
        opened = [song for song in songs if isinstance(song, _Song)]
        heard = iter(self._hear(opened))
        return [
            self._outcome(record, song, next(heard)) if isinstance(song, _Song) else self._refused(song)
            for record, song in zip(records, songs, strict=True)
        ]

    def _refused(self, refusal: Refusal) -> StepOutput:
        return self._without_language(refusal) if refusal.code == UNKNOWN_LANGUAGE else StepOutput(refusal=refusal)

    def _without_language(self, refusal: Refusal) -> StepOutput:
        """Return the outcome for a song in a language that the model does not know."""
        return StepOutput(refusal=refusal)

    def _open(self, record: SongRecord, folder: WorkFolder) -> _Song | Refusal:
        recognizer = self._loaded()
        track = record.heard_track
        try:
            samples, rate = read_audio(folder.track(record, track), sample_rate=recognizer.sample_rate)
        except AudioRejected as error:
            return Refusal(self.name, error.code, f"track {track!r}: {error.reason}")
        length = len(samples) / rate
        voiced = ((0.0, length),) if record.voiced is None else record.voiced
        limited = [(start, min(end, length)) for start, end in voiced if start < length]
        chunks = chunk_intervals(limited, min(self.options.chunk_seconds, recognizer.chunk_seconds), samples, rate)
        longest = sorted(chunks, key=lambda chunk: chunk[0] - chunk[1])[:NUM_LANGUAGE_CHUNKS]
        found = recognizer.language_probabilities([_cut(samples, rate, chunk) for chunk in longest]) if chunks else {}
        language = base_language(record.language) or self._language(record, found)
        if found and language not in found:
            reason = f"{self._model[0]} does not know the language {language!r}"
            return Refusal(self.name, UNKNOWN_LANGUAGE, reason, language)
        return _Song(samples, record.voiced, chunks, language, found.get(language))

    @staticmethod
    def _language(record: SongRecord, found: Mapping[str, float]) -> str:
        """Return the language of a song that states none: that of its lyrics, or else the most probable one."""
        of_lyrics = language_of_text(record.lyrics)
        return of_lyrics if of_lyrics in found else most_probable_language(found) if found else ""

    def _hear(self, songs: Sequence[_Song]) -> list[tuple[list[Word], float]]:
        """Return the words of each song, and the seconds of its chunks whose text was rejected."""
        recognizer = self._loaded()
        # Chunks are sorted by length, since decoding a batch takes as long as its longest text.
        places = [(number, chunk) for number, song in enumerate(songs) for chunk in song.chunks]
        places.sort(key=lambda place: place[1][0] - place[1][1])
        words: list[list[Word]] = [[] for _ in songs]
        doubted = [0.0] * len(songs)
        for first in range(0, len(places), self.options.batch_size):
            batch = places[first : first + self.options.batch_size]
            chunks = [_cut(songs[number].samples, recognizer.sample_rate, chunk) for number, chunk in batch]
            languages = [songs[number].language for number, _ in batch]
            for (number, (start, end)), heard in zip(
                batch, recognizer.transcribe(chunks, languages, self.options.guards), strict=True
            ):
                words[number] += _placed(heard.words, start, songs[number], recognizer.sample_rate)
                doubted[number] += end - start if heard.doubt else 0.0
        return [
            (sorted(found, key=lambda word: word.start), seconds) for found, seconds in zip(words, doubted, strict=True)
        ]

    def _outcome(self, record: SongRecord, song: _Song, heard: tuple[list[Word], float]) -> StepOutput:
        words = within_voice(heard[0], record.voiced or ())
        text = joiner(song.language).join(word.text for word in words)
        confidence = float(np.mean([word.confidence for word in words])) if words else None
        transcript = Transcript(text, song.language, confidence, tuple(words))
        measures = {
            "transcript_doubted_seconds": heard[1],
            "language_probability": song.language_probability,
            "transcript_confidence": confidence,
        }
        known = {name: value for name, value in measures.items() if value is not None}
        return StepOutput({"transcripts": {self.name: asdict(transcript)}, "measures": self._kept(known)})

    def _kept(self, measures: dict[str, float]) -> dict[str, float]:
        """Return the measures that this step writes."""
        return measures

    def _loaded(self) -> "Recognizer":
        assert self._recognizer is not None, "start comes before run"
        return self._recognizer


class TranscribeSecondStep(TranscribeStep):
    """Stores the transcript of `agreement_model`, for comparison with the first one, and changes nothing else."""

    name = SECOND

    @classmethod
    def is_wanted(cls, options: TranscribeOptions) -> bool:
        """Return whether a second model is named."""
        return bool(options.agreement_model)

    @property
    def _model(self) -> tuple[str, str]:
        return self.options.agreement_model, self.options.agreement_revision

    def _kept(self, measures: dict[str, float]) -> dict[str, float]:
        return {}

    def _without_language(self, refusal: Refusal) -> StepOutput:
        """Leave a song uncompared: its lyrics do not depend on the second model."""
        logger.warning("a song is not compared by a second model: %s", refusal.reason)
        return StepOutput({"provenance": {self.name: {SKIPPED: refusal.reason}}})

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return track, voiced intervals and language, which is that of the first transcript."""
        return super().inputs(_in_first_language(record))

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Transcribe the songs in the language of the first transcript."""
        return super().run([_in_first_language(record) for record in records], folder)


def _in_first_language(record: SongRecord) -> SongRecord:
    if record.language or FIRST not in record.transcripts:
        return record
    return replace(record, language=record.transcripts[FIRST].language)


def _cut(samples: np.ndarray, sample_rate: int, chunk: Interval) -> np.ndarray:
    return samples[round(chunk[0] * sample_rate) : round(chunk[1] * sample_rate)]


SECTION = Section(
    "transcribe",
    "the words that are sung (Whisper), by one model or by two",
    TranscribeOptions,
    Phase.SONGS,
    [TranscribeStep, TranscribeSecondStep],  # two steps, so that one network is in memory at a time
    is_on=False,
    main_key="model",
    networks=[HubNetwork("model", "revision"), HubNetwork("agreement_model", "agreement_revision")],
    refusal_codes={
        UNKNOWN_LANGUAGE: RefusalCode("the recognizer does not know the stated language"),
    },
)
