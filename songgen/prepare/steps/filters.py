"""The step that refuses clips beyond limits on earlier measurements; two sets of limits are published presets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from songgen.prepare.engine.record import TRANSCRIBED, JsonObject, Refusal, SongRecord, known_language
from songgen.prepare.engine.section import Phase, RefusalCode, Section, length_codes
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.tasks import ACCOMPANIMENT, VOCAL

PRESETS: dict[str, dict[str, float]] = {
    "TOTAL": {"min_clap_score": 0.0, "min_vocal_energy": 200.0, "min_acc_energy": 200.0},
    "HQ": {
        "min_clap_score": 0.25,
        "min_vocal_energy": 1000.0,
        "min_acc_energy": 1000.0,
        "max_transcript_edit_distance": 5.0,
    },
}
"""Limits in the names of SongGen's published data sets: CLAP above 0 and energy above 200 (541,253 clips); edit
distance 5, CLAP 0.25, energy 1,000 (100,563 clips). The names do not state which energy; here the limit holds for both
tracks."""


_CODE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")
"""A language code with an optional region; recognizers know more languages than the tokenizer."""


@dataclass(frozen=True)
class FilterOptions:
    """Inclusive limits. null: that of the preset, or none. A limit in the configuration overrides the preset.

    Raises:
        ValueError: If a lowest value is above its highest, or a language is unknown.
    """

    preset: Literal["TOTAL", "HQ"] | None = None
    """Limits of SongGen's published data sets: `TOTAL` CLAP 0 and energy 200; `HQ` edit distance 5, CLAP 0.25 and
    energy 1,000. null: only the limits below."""

    not_measured: Literal["pass", "refuse"] = "pass"
    """What happens to a clip that lacks the measurement of a limit, such as the energy of the vocal if there is only a
    mix."""

    min_seconds: float | None = 2.0
    """Shortest clip."""

    max_seconds: float | None = 30.0
    """Longest clip."""

    min_vocal_energy: float | None = None
    """Lowest energy of the vocal track (root mean square of the 16-bit samples; about 1,000 for a normal voice). It
    does not apply to instrumentals."""

    min_acc_energy: float | None = None
    """Lowest energy of the accompaniment."""

    max_clipped_share: float | None = 0.01
    """Highest fraction of samples at full scale."""

    max_silent_share: float | None = 0.8
    """Highest fraction of the length in which the mix is silent."""

    min_loudness: float | None = None
    """Lowest loudness in LUFS."""

    max_loudness: float | None = None
    """Highest loudness in LUFS."""

    languages: tuple[str, ...] = ()
    """Codes or English names of the languages to keep; empty keeps all. Instrumentals have no language."""

    keep_instrumentals: bool = True
    """Keep clips in which nobody sings."""

    max_transcript_edit_distance: float | None = None
    """Most words in which two transcripts may differ."""

    max_transcript_edit_share: float | None = None
    """Highest fraction of the words in which two transcripts may differ."""

    min_transcript_confidence: float | None = None
    """Lowest mean probability of the words that were heard."""

    min_lyrics_coverage: float | None = None
    """Lowest fraction of the words of the lyrics that were heard."""

    cull_empty_slices: bool = True
    """Refuse clips with lyrics in which no word was heard and nobody sings."""

    max_words_per_second: float | None = None
    """Highest number of words per second; a higher one comes from a recognizer that repeats itself."""

    min_clap_score: float | None = None
    """Lowest cosine between caption and sound in CLAP."""

    max_caption_length: int | None = 600
    """Most characters of the caption."""

    max_lyrics_length: int | None = 600
    """Most characters of the lyrics."""

    def __post_init__(self) -> None:
        """Check the limits against each other, and write languages as codes."""
        codes = tuple(known_language(language) for language in self.languages)
        unknown = [given for given, code in zip(self.languages, codes, strict=True) if not _CODE.fullmatch(code)]
        if unknown:
            raise ValueError(f"languages: {', '.join(map(repr, unknown))} is not a language; use codes such as en")
        object.__setattr__(self, "languages", codes)
        for name in ("seconds", "loudness"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} {low:g} is above max_{name} {high:g}: no clip can pass")

    def limit(self, name: str) -> float | None:
        """Return a limit: that of the configuration, or else that of the preset."""
        own: float | None = getattr(self, name)
        return PRESETS.get(self.preset or "", {}).get(name) if own is None else own

    def needs(self) -> dict[str, str]:
        """Return section (`score`) or key of another section (`transcribe.agreement_model`) -> limit that needs it.

        Without these, the limit would have no effect. Limits that are on by default need nothing.
        """
        needed: dict[str, str] = {}
        for name, sections in _NEEDED_BY_LIMIT.items():
            if self.limit(name) is not None:
                needed |= {section: name for section in sections if section not in needed}
        return needed


_WORDS = ("transcribe", "agreement")
_NEEDED_BY_LIMIT: dict[str, tuple[str, ...]] = {
    "min_vocal_energy": ("measure",),
    "min_acc_energy": ("measure",),
    "min_loudness": ("measure",),
    "max_loudness": ("measure",),
    "max_transcript_edit_distance": (*_WORDS, "transcribe.agreement_model"),
    "max_transcript_edit_share": (*_WORDS, "transcribe.agreement_model"),
    "min_transcript_confidence": _WORDS,
    "min_lyrics_coverage": _WORDS,
    "max_words_per_second": _WORDS,
    "min_clap_score": ("score",),
}
"""Limit -> sections, and keys of sections, that provide its measurement."""


@dataclass(frozen=True)
class _Limit:
    """A limit: its option, the value it applies to, and the code of a refusal."""

    option: str
    code: str
    what: str
    value: Callable[[SongRecord], float | None]

    def refuses(self, value: float, limit: float) -> bool:
        return value < limit if self.option.startswith("min_") else value > limit


def _measure(name: str) -> Callable[[SongRecord], float | None]:
    return lambda record: record.measures.get(name)


def _voice_energy(record: SongRecord) -> float | None:
    # Nobody sings on an instrumental, so its vocal track has no meaning.
    return None if is_instrumental(record) else record.energies.get(VOCAL)


_LIMITS = (
    _Limit("min_seconds", "too_short", "length in seconds", lambda record: record.duration),
    _Limit("max_seconds", "too_long", "length in seconds", lambda record: record.duration),
    _Limit("max_clipped_share", "clipped", "share of clipped samples", _measure("clipped_share")),
    _Limit("max_silent_share", "mostly_silent", "share of silence", _measure("silent_share")),
    _Limit("min_vocal_energy", "vocal_too_quiet", "energy of the vocal", _voice_energy),
    _Limit(
        "min_acc_energy",
        "accompaniment_too_quiet",
        "energy of the accompaniment",
        lambda record: record.energies.get(ACCOMPANIMENT),
    ),
    _Limit("min_loudness", "too_quiet", "loudness in LUFS", _measure("loudness")),
    _Limit("max_loudness", "too_loud", "loudness in LUFS", _measure("loudness")),
    _Limit(
        "max_transcript_edit_distance",
        "transcripts_differ",
        "words in which the transcripts differ",
        _measure("transcript_edit_distance"),
    ),
    _Limit(
        "max_transcript_edit_share",
        "transcripts_differ",
        "share of words in which the transcripts differ",
        _measure("transcript_edit_share"),
    ),
    _Limit(
        "min_transcript_confidence",
        "transcript_unsure",
        "mean probability of the words",
        _measure("transcript_confidence"),
    ),
    _Limit("min_lyrics_coverage", "lyrics_not_heard", "share of the lyrics heard", _measure("lyrics_coverage")),
    _Limit("max_words_per_second", "words_too_dense", "words a second", _measure("words_per_second")),
    _Limit("min_clap_score", "caption_does_not_fit", "CLAP score", _measure("clap_score")),
    _Limit("max_caption_length", "caption_too_long", "characters of the caption", lambda record: len(record.caption)),
    _Limit("max_lyrics_length", "lyrics_too_long", "characters of the lyrics", lambda record: len(record.lyrics)),
)
_OF_LYRICS = frozenset(limit.option for limit in _LIMITS if "transcript" in limit.option or "lyrics" in limit.option)


def is_instrumental(record: SongRecord) -> bool:
    """Return whether nobody sings: by the record's source of lyrics, or without lyrics and detected voice."""
    return record.lyrics_source == "instrumental" or (not record.lyrics and not record.voiced)


def find_refusals(record: SongRecord, options: FilterOptions) -> list[Refusal]:
    """Return all reasons to refuse a clip, in the order of the limits."""
    found = []
    if not options.keep_instrumentals and is_instrumental(record):
        found.append(_refusal("instrumental", "nobody sings, and instrumentals are left out"))
    language = known_language(record.language)
    if options.languages and not is_instrumental(record) and language not in options.languages:
        reason = f"the language is {record.language or 'not known'}; kept are {', '.join(options.languages)}"
        found.append(_refusal("other_language", reason, record.language, ", ".join(options.languages)))
    if options.cull_empty_slices and _is_empty_slice(record):
        found.append(_refusal("empty_slice", "there are lyrics, but no word was heard and nobody sings", 0.0))
    for limit in _LIMITS:
        bound = options.limit(limit.option)
        if bound is None or (is_instrumental(record) and limit.option in _OF_LYRICS):
            continue
        value = limit.value(record)
        if value is None:
            is_exempt = (limit.option == "min_vocal_energy" and is_instrumental(record)) or (
                limit.option == "min_lyrics_coverage" and record.lyrics_source == TRANSCRIBED
            )
            if options.not_measured == "refuse" and not is_exempt:
                reason = f"{limit.what} was not measured, and {limit.option} asks for it"
                found.append(_refusal("not_measured", reason, None, bound))
        elif limit.refuses(value, bound):
            side = "below" if limit.option.startswith("min_") else "above"
            found.append(_refusal(limit.code, f"{limit.what}: {value:g} is {side} {bound:g}", value, bound))
    return found


def _is_empty_slice(record: SongRecord) -> bool:
    nobody_sings = record.voiced is not None and not record.voiced
    return bool(record.lyrics) and nobody_sings and record.measures.get("words_per_second") == 0


def _refusal(code: str, reason: str, value: float | str | None = None, limit: float | str | None = None) -> Refusal:
    return Refusal(FilterStep.name, code, reason, value, limit)


class FilterStep(Step):
    """Refuses clips beyond the limits. The first failed limit gives the code; all are kept in `others`."""

    name = "filter"
    version = 1

    def __init__(self, options: FilterOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return the limits, with those of the preset."""
        own = dataclasses.asdict(self.options)
        return {**own, **{limit.option: self.options.limit(limit.option) for limit in _LIMITS}}

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return all values that limits apply to."""
        return {
            "duration": record.duration,
            "energies": dict(record.energies),
            "measures": dict(record.measures),
            "language": record.language,
            "lyrics": record.lyrics,
            "lyrics_source": record.lyrics_source,
            "caption": len(record.caption),
            "is_voiced": None if record.voiced is None else bool(record.voiced),
        }

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return no file, since earlier steps have measured everything."""
        return []

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Check each record."""
        return [_outcome(find_refusals(record, self.options)) for record in records]


def _outcome(refusals: Sequence[Refusal]) -> StepOutput:
    if not refusals:
        return StepOutput()
    first = refusals[0]
    reasons = "; ".join(refusal.reason for refusal in refusals)
    others = tuple(refusal.code for refusal in refusals[1:])
    return StepOutput(refusal=dataclasses.replace(first, reason=reasons, others=others))


SECTION = Section(
    "filter",
    "limits for clips; HQ and TOTAL are the published ones",
    FilterOptions,
    Phase.DESCRIBED,
    [FilterStep],
    main_key="preset",
    refusal_codes={
        **length_codes("too_short", "too_long", "lyrics_too_long"),
        "accompaniment_too_quiet": RefusalCode(
            "the accompaniment has less energy than `filter.min_acc_energy`",
            "Listen to some of them: songs for voice alone have no accompaniment.",
        ),
        "caption_does_not_fit": RefusalCode(
            "caption and sound agree less than `filter.min_clap_score`",
            "Listen to some of them with their captions. Captions written by rule or from file names often do not fit; "
            "describe the songs again with the `tag` step, or correct them in `songgen review`.",
        ),
        "caption_too_long": RefusalCode("the caption is longer than `filter.max_caption_length`"),
        "clipped": RefusalCode(
            "more samples are at full scale than `filter.max_clipped_share`",
            "These recordings are overdriven. Better sources help; raising `filter.max_clipped_share` teaches the "
            "model the distortion.",
        ),
        "empty_slice": RefusalCode(
            "there are lyrics, but no word was heard and nobody sings",
            "There are lyrics but no voice: the lyrics may belong to another version of the song.",
        ),
        "instrumental": RefusalCode("nobody sings, and `filter.keep_instrumentals` is off"),
        "lyrics_not_heard": RefusalCode(
            "less of the lyrics was heard than `filter.min_lyrics_coverage`",
            "The lyrics differ from what is sung. Check that they belong to these recordings, or leave them out and "
            "let them be transcribed.",
        ),
        "mostly_silent": RefusalCode(
            "more of the clip is silent than `filter.max_silent_share`",
            "Long pauses became clips: check `silence_db` of `measure`, and the sources.",
        ),
        "not_measured": RefusalCode(
            "a limit's figure was not measured, and `filter.not_measured` is `refuse`",
            "A limit asks for a figure that these clips lack: switch its step on, or set `filter.not_measured` to "
            "`pass`.",
        ),
        "other_language": RefusalCode(
            "the language is none of `filter.languages`",
            "Add the languages you want to `filter.languages`, or check that they were recognized.",
        ),
        "too_loud": RefusalCode("the clip is louder than `filter.max_loudness`"),
        "too_quiet": RefusalCode("the clip is quieter than `filter.min_loudness`"),
        "transcript_unsure": RefusalCode(
            "the words were heard with less certainty than `filter.min_transcript_confidence`"
        ),
        "transcripts_differ": RefusalCode(
            "two recognizers heard different words",
            "Two recognizers disagree: sung words are hard to hear. Give the lyrics where you have them.",
        ),
        "vocal_too_quiet": RefusalCode(
            "the vocal has less energy than `filter.min_vocal_energy`",
            "Their voice is quiet or absent. If they are instrumentals, mark them as such; otherwise check the "
            "separation or `filter.min_vocal_energy`.",
        ),
        "words_too_dense": RefusalCode("more words a second than `filter.max_words_per_second`"),
    },
)
