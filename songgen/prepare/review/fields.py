"""Checks of the values from a review page: texts that can be stored, times within the clip, possible verdicts."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from songgen.data.manifests.clip import is_storable_text
from songgen.prepare.engine.record import JsonObject, LyricLine, SongRecord
from songgen.prepare.review.corrections import ACCEPTED, REASON, REFUSED, VERDICT, can_be_accepted
from songgen.prepare.timing.lyrics_alignment import written_lines

MAX_LENGTHS = {"lyrics": 20_000, "caption": 5_000, "language": 16, REASON: 500}
"""Most characters of each text."""

MAX_TAGS, MAX_TAG_LENGTH = 100, 200

SAME_TIME_SECONDS = 0.0005
"""Largest difference of equal times, which are sent with three decimals."""

_LANGUAGE = re.compile(r"|[a-z]{2,3}(-[a-z0-9]{2,8})?")
_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class FieldProblems(ValueError):
    """Values from the page have problems."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the problems, one sentence for each."""
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def line_times(record: SongRecord) -> list[list[float] | None]:
    """Return [start, end] of every line of a record's lyrics, in order; None for a line without times."""
    times: list[list[float] | None] = []
    placed = list(record.lines)
    for written in written_lines(record.lyrics):
        if placed and placed[0].text == written.text:
            line = placed.pop(0)
            times.append([round(line.start, 3), round(line.end, 3)])
        else:
            times.append(None)
    return times


def checked_changes(record: SongRecord, given: Any) -> JsonObject:
    """Return the sent values as values of a record's fields.

    Args:
        record: record of the clip as shown.
        given: `caption`, `language`, `tags`, `verdict`, `reason`; `lyrics`, together with `times`: for every line
            of lyrics, [start, end] in seconds or null.

    Raises:
        FieldProblems: If there are problems; lists all of them.
    """
    if not isinstance(given, dict):
        raise FieldProblems(["changes: a table of fields is expected"])
    problems = [f"{name}: cannot be changed here" for name in given if name not in _CHECKS and name != "times"]
    if ("times" in given) != ("lyrics" in given):
        problems.append("lyrics, times: one cannot be changed without the other")
    changes: JsonObject = {}
    for name, check in _CHECKS.items():
        if name in given:
            try:
                changes |= check(record, given)
            except FieldProblems as error:
                problems += error.problems
    if problems:
        raise FieldProblems(problems)
    return changes


def _text(name: str, value: Any) -> str:
    """Normalize a text: composed characters, plain line breaks, no control characters."""
    if not isinstance(value, str):
        raise FieldProblems([f"{name}: a text is expected"])
    if not is_storable_text(value):
        raise FieldProblems([f"{name}: it contains characters that cannot be stored (NUL or half a surrogate pair)"])
    text = unicodedata.normalize("NFC", _CONTROL.sub("", _LINE_BREAKS.sub("\n", value))).strip()
    limit = MAX_LENGTHS.get(name, MAX_TAG_LENGTH)
    if len(text) > limit:
        raise FieldProblems([f"{name}: {len(text)} characters, at most {limit} are allowed"])
    return text


def _caption(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    return {"caption": " ".join(_text("caption", given["caption"]).split())}


def _language(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    language = _text("language", given["language"]).lower()
    if not _LANGUAGE.fullmatch(language):
        raise FieldProblems([f"language: {language!r} is not a language code such as en or de"])
    return {"language": language}


def _tags(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    value = given["tags"]
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise FieldProblems([f"tags: a list of at most {MAX_TAGS} texts is expected"])
    tags = [" ".join(_text("tags", tag).split()) for tag in value]
    return {"tags": list(dict.fromkeys(tag for tag in tags if tag))}


def _lyrics(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    lyrics = _text("lyrics", given["lyrics"])
    written, times = written_lines(lyrics), given.get("times")
    if not isinstance(times, list) or len(times) != len(written):
        raise FieldProblems([f"times: {len(written)} lines need as many entries, null for a line without times"])
    problems, lines = [], []
    for number, (line, time) in enumerate(zip(written, times, strict=True), 1):
        if time is None:
            continue
        if not _is_interval(time, record.duration):
            problems.append(
                f"times: line {number} needs a start before its end, both within 0 and {record.duration:.3f} s"
            )
            continue
        start, end = float(time[0]), min(float(time[1]), record.duration)
        lines.append(
            {
                "text": line.text,
                "start": start,
                "end": end,
                "section": line.section,
                "confidence": _confidence(record.lines, line.text, start, end),
            }
        )
    if problems:
        raise FieldProblems(problems)
    return {"lyrics": lyrics, "lines": lines}


def _is_interval(time: Any, duration: float) -> bool:
    is_pair = isinstance(time, list) and len(time) == 2
    if not is_pair or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in time):
        return False
    return bool(0 <= time[0] < time[1] <= duration + SAME_TIME_SECONDS)


def _confidence(lines: Sequence[LyricLine], text: str, start: float, end: float) -> float | None:
    """Return the confidence of a line whose times are unchanged; a line that a person placed has none."""
    for line in lines:
        if line.text == text and max(abs(line.start - start), abs(line.end - end)) <= SAME_TIME_SECONDS:
            return line.confidence
    return None


def _verdict(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    verdict = given[VERDICT]
    if verdict not in ("", ACCEPTED, REFUSED):
        raise FieldProblems([f"{VERDICT}: {ACCEPTED}, {REFUSED} or nothing is expected"])
    if verdict == ACCEPTED and not can_be_accepted(record):
        assert record.refusal is not None
        raise FieldProblems([f"{VERDICT}: {record.refusal.step} made no clip of it, so there is nothing to accept"])
    return {VERDICT: verdict}


def _reason(record: SongRecord, given: Mapping[str, Any]) -> JsonObject:
    return {REASON: " ".join(_text(REASON, given[REASON]).split())}


_CHECKS = {
    "lyrics": _lyrics,
    "language": _language,
    "caption": _caption,
    "tags": _tags,
    VERDICT: _verdict,
    REASON: _reason,
}
"""Field -> function of the record and all sent values, which returns checked values or raises `FieldProblems`."""
