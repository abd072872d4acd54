"""Statistics of a prepared data set: the content of `report.json`, from which `songgen.prepare.report.page` is made."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songgen.data.manifests.tags import TAG_KINDS, missing_tag_kinds
from songgen.data.reject_codes import REJECT_CODES
from songgen.lyrics.languages import language_code
from songgen.lyrics.tokenizer import VOCABULARY_FILES, VoiceBpeTokenizer
from songgen.prepare.engine.record import FIRST, SECOND, JsonObject, SongRecord
from songgen.prepare.output.options import ReportOptions
from songgen.prepare.report.histograms import FIGURES, histograms
from songgen.prepare.review.corrections import REVIEW_CODES
from songgen.prepare.sections import CUTTING_STEP, REFUSAL_CODES
from songgen.prepare.steps.filters import FilterOptions, is_instrumental
from songgen.prepare.timing.clip_plan import UNUSED_REASONS

CODES = {**REFUSAL_CODES, **REVIEW_CODES}
"""Code of a refusal -> its meaning."""

REPORT_VERSION = 3
"""Version of the statistics, incremented when the same records give another report."""

SECONDS_IN_HOUR = 3600

GOALS = ((15_000, "training from scratch"), (2_000, "teaching a trained model another language"))
"""Hours from notes on training VALL-E, a model of speech: an order of magnitude, not a threshold."""

LARGE_DIFFERENCE = 0.3
"""Share of the words in which two recognizers differ, above which one of them is wrong too often to learn from."""

LONGEST_TAG = 40
"""Most characters of a tag; longer text between two commas of a caption is a sentence."""

LISTED = 30
"""Number of most common tags, and of unknown pieces, that are listed."""


@dataclass(frozen=True)
class ReportContext:
    """Values, other than the records, that the statistics depend on."""

    title: str
    """Name of the data set."""

    inputs: tuple[str, ...]
    """Names of the inputs."""

    steps: tuple[str, ...]
    """Names of the steps that ran, in order."""

    filters: FilterOptions | None
    """Limits of the filter; None if it was off."""

    vocabulary: VoiceBpeTokenizer | None = None
    """Lyrics tokenizer; None if there is none."""

    notices: tuple[str, ...] = ()
    """Notices on the inputs, such as misnamed files."""


def open_vocabulary(named: str, model: str) -> VoiceBpeTokenizer | None:
    """Return the lyrics tokenizer for the report.

    Args:
        named: tokenizer in the options; empty for that of the model.
        model: `write.model_name_or_path`.

    Returns:
        the tokenizer; None if none is named and the model has no local one yet.

    Raises:
        ValueError: If the named one cannot be opened.
    """
    if named:
        try:
            return VoiceBpeTokenizer.from_pretrained(named)
        except ValueError as error:
            raise ValueError(f"report.lyrics_tokenizer: {error}") from error
    if any((Path(model) / name).is_file() for name in VOCABULARY_FILES):
        return VoiceBpeTokenizer.from_pretrained(model)
    return None


def build_report(records: Sequence[SongRecord], context: ReportContext, options: ReportOptions) -> JsonObject:
    """Return all statistics as JSON values, as a function of the arguments alone.

    Args:
        records: songs and clips after the last step, including refused ones.
        context: further values.
        options: options of the report.
    """
    kept = [record for record in records if record.refusal is None]
    report: JsonObject = {
        "version": REPORT_VERSION,
        "title": context.title,
        "inputs": list(context.inputs),
        "songs": len({record.song for record in records}),
        "clips": len(kept),
        "seconds": _seconds(kept),
        "splits": _by(kept, lambda record: record.split or "train"),
        "goals": [{"what": what, "hours": hours, "share": _hours(kept) / hours} for hours, what in GOALS],
        "stages": stages(records, context.steps),
        "refusals": refusals(records),
        "unused": unused(records),
        "duplicates": duplicates(records),
        "languages": _by(kept, _language),
        "unknown_languages": unknown_languages(kept),
        "lyrics": _by(kept, lambda record: record.lyrics_source or ("given" if record.lyrics else "none")),
        "recognizers": recognizers(kept),
        "captions": sum(bool(record.caption.strip()) for record in kept),
        "histograms": histograms(records, context.filters),
        "tags": tag_coverage(kept),
        "vocabulary": None if context.vocabulary is None else vocabulary_coverage(kept, context.vocabulary),
        "notices": list(context.notices),
        "samples": {
            "accepted": [_sample(record) for record in choose(kept, options.samples, options.seed)],
            "refused": [_sample(record) for record in choose_refused(records, options.samples, options.seed)],
        },
    }
    return report


def meaning_of(code: str) -> str:
    """Return the meaning of a refusal code."""
    content = CODES.get(code) or REJECT_CODES.get(code)
    return content.meaning if content is not None else ""


def stages(records: Sequence[SongRecord], steps: Sequence[str]) -> list[JsonObject]:
    """Return the remaining records after each step that refused any, from all songs to the clips of the data set.

    A song that could not be read has no known length, which counts as 0.
    """
    lost = defaultdict(list)
    for record in records:
        if record.refusal is not None:
            lost[record.refusal.step].append(record)
    songs = {record.song for record in records}
    unused_seconds = sum(entry["seconds"] for entry in unused(records))
    left = list(records)
    left_seconds = _seconds(records) + unused_seconds
    found: list[JsonObject] = [
        {"step": "inputs", "songs": len(songs), "clips": None, "seconds": left_seconds, "lost_seconds": 0.0}
    ]
    is_cut = False
    order = [*steps, *sorted(lost.keys() - set(steps))]
    for step in order:
        cuts = step == CUTTING_STEP
        if not lost[step] and not cuts:
            continue
        is_cut |= cuts
        gone = {id(record) for record in lost[step]}
        left = [record for record in left if id(record) not in gone]
        lost_seconds = _seconds(lost[step]) + unused_seconds * cuts
        left_seconds -= lost_seconds
        found.append(
            {
                "step": step,
                "songs": len({record.song for record in left}),
                "clips": len(left) if is_cut else None,
                "seconds": round(left_seconds, 3),
                "lost_seconds": round(lost_seconds, 3),
            }
        )
    return found


def refusals(records: Sequence[SongRecord]) -> list[JsonObject]:
    """Return how many songs and clips each step refused for each reason, the most frequent first.

    `alone` counts those without any further reason, which a milder limit would keep.
    """
    found: dict[tuple[str, str], list[SongRecord]] = defaultdict(list)
    for record in records:
        if record.refusal is not None:
            found[record.refusal.step, record.refusal.code].append(record)
    return [
        {
            "step": step,
            "code": code,
            "meaning": meaning_of(code),
            "count": len(listed),
            "seconds": _seconds(listed),
            "alone": sum(record.refusal is not None and not record.refusal.others for record in listed),
        }
        for (step, code), listed in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def unused(records: Sequence[SongRecord]) -> list[JsonObject]:
    """Return the time of the songs that is in no clip, by reason."""
    found = []
    for reason, meaning in UNUSED_REASONS.items():
        seconds = sum(record.measures.get(f"unused_{reason}_seconds", 0.0) for record in records)
        if seconds:
            found.append({"reason": reason, "meaning": meaning, "seconds": round(seconds, 3)})
    return found


def duplicates(records: Sequence[SongRecord]) -> list[JsonObject]:
    """Return the clips that are kept for duplicates, each with its refused duplicates."""
    found: dict[str, list[JsonObject]] = defaultdict(list)
    for record in records:
        if record.refusal is not None and record.refusal.kept:
            found[record.refusal.kept].append(
                {"id": record.id, "similarity": record.refusal.value, "why": record.refusal.reason.partition(": ")[2]}
            )
    return [{"kept": kept, "left_out": found[kept]} for kept in sorted(found)]


def recognizers(records: Sequence[SongRecord]) -> JsonObject:
    """Return how far clips that a recognizer has heard agree with their lyrics and with a second recognizer."""
    heard = [record for record in records if FIRST in record.transcripts]
    coverage = [record.measures["lyrics_coverage"] for record in heard if "lyrics_coverage" in record.measures]
    shares = [
        record.measures["transcript_edit_share"] for record in heard if "transcript_edit_share" in record.measures
    ]
    skipped = Counter(reason for record in heard if (reason := record.provenance.get(SECOND, {}).get("skipped")))
    return {
        "clips": len(heard),
        "covered": len(coverage),
        "coverage": float(np.median(coverage)) if coverage else None,
        "compared": len(shares),
        "different": sum(share > LARGE_DIFFERENCE for share in shares),
        "difference": float(np.median(shares)) if shares else None,
        "skipped": dict(sorted(skipped.items())),
    }


def unknown_languages(records: Sequence[SongRecord]) -> dict[str, int]:
    """Return the number of clips in languages that no lyrics tokenizer knows, by language; tokenizing refuses them."""
    found: Counter[str] = Counter()
    for record in records:
        try:
            language_code(record.language or "en")  # tokenizing treats a clip without a language as English
        except ValueError:
            found[record.language] += 1
    return dict(sorted(found.items()))


def tag_coverage(records: Sequence[SongRecord]) -> JsonObject:
    """Return how many clips have each kind of tag in caption and tags, and the most common tags."""
    missing = Counter(kind for record in records for kind in missing_tag_kinds(_description(record)))
    tags = Counter(tag for record in records for tag in _tags(record))
    return {
        "kinds": {kind: len(records) - missing[kind] for kind in TAG_KINDS},
        "common": [[tag, count] for tag, count in sorted(tags.items(), key=lambda item: (-item[1], item[0]))[:LISTED]],
        "different": len(tags),
        "tempo_known": sum(record.tempo is not None for record in records),
        "key_known": sum(bool(record.key) for record in records),
    }


def _description(record: SongRecord) -> str:
    return ", ".join([record.caption, *record.tags])


def _tags(record: SongRecord) -> Iterable[str]:
    tags = record.tags or record.caption.split(",")
    plain = {tag.strip(" .").casefold() for tag in tags}
    return {tag for tag in plain if 0 < len(tag) <= LONGEST_TAG}


def vocabulary_coverage(records: Sequence[SongRecord], vocabulary: VoiceBpeTokenizer) -> JsonObject:
    """Return how much of the lyrics the vocabulary covers; unknown pieces will not be sung."""
    num_pieces = num_unknown = 0
    unknown: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for record in records:
        if not record.lyrics:
            continue
        try:
            language = language_code(record.language)
            num_pieces += len(vocabulary.encode(record.lyrics, language))
            pieces = vocabulary.unknown_pieces(record.lyrics, language)
        except ValueError:
            refused[record.language] += 1
            continue
        num_unknown += len(pieces)
        unknown.update(pieces)
    return {
        "pieces": num_pieces,
        "unknown": num_unknown,
        "unknown_pieces": [[piece, count] for piece, count in unknown.most_common(LISTED)],
        "size": len(vocabulary),
        "other_languages": dict(sorted(refused.items())),
    }


def choose(records: Sequence[SongRecord], count: int, seed: int) -> list[SongRecord]:
    """Choose records by a hash of seed and id, and return them sorted by id."""
    ordered = sorted(
        records, key=lambda record: hashlib.sha256(f"{seed}\0{record.id}".encode("utf-8", "replace")).digest()
    )
    return sorted(ordered[:count], key=lambda record: record.id)


def choose_refused(records: Sequence[SongRecord], count: int, seed: int) -> list[SongRecord]:
    """Choose refused records, one of every reason before a second one of any."""
    groups: dict[tuple[str, str], list[SongRecord]] = defaultdict(list)
    for record in records:
        if record.refusal is not None:
            groups[record.refusal.step, record.refusal.code].append(record)
    # The first of each reason, then the second of each, and so on.
    ranked = [
        (rank, reason, record)
        for reason, listed in sorted(groups.items())
        for rank, record in enumerate(choose(listed, count, seed))
    ]
    chosen = sorted(ranked, key=lambda entry: entry[:2])[:count]
    return [record for _, _, record in sorted(chosen, key=lambda entry: (entry[1], entry[2].id))]


def _sample(record: SongRecord) -> JsonObject:
    shown: JsonObject = {"id": record.id, "song": record.song, "start": record.start, "seconds": record.duration}
    shown["title"] = record.provenance.get("take_in", {}).get("embedded", {}).get("title", "")
    shown |= {"caption": record.caption or ", ".join(record.tags), "lyrics": record.lyrics, "language": record.language}
    shown |= {"split": record.split, "tempo": record.tempo, "key": record.key, "audio": {}}
    figures = {name: value_of(record) for name, _, _, value_of, _ in FIGURES[2:]}
    shown["figures"] = {name: round(value, 3) for name, value in figures.items() if value is not None}
    if record.refusal is not None:
        shown |= {"step": record.refusal.step, "code": record.refusal.code, "reason": record.refusal.reason}
    return shown


def _language(record: SongRecord) -> str:
    return "instrumental" if is_instrumental(record) else record.language or "not known"


def _by(records: Sequence[SongRecord], key_of: Callable[[SongRecord], str]) -> dict[str, Mapping[str, float]]:
    """Return songs, clips and seconds by a key, the most frequent first."""
    found: dict[str, list[SongRecord]] = defaultdict(list)
    for record in records:
        found[key_of(record)].append(record)
    return {
        key: {"songs": len({record.song for record in listed}), "clips": len(listed), "seconds": _seconds(listed)}
        for key, listed in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def _seconds(records: Iterable[SongRecord]) -> float:
    return round(sum(record.duration for record in records), 3)


def _hours(records: Iterable[SongRecord]) -> float:
    return _seconds(records) / SECONDS_IN_HOUR
