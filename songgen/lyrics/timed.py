"""Lyrics with times: LRC and its dialects, SRT, WebVTT, ASS, Audacity labels and the output of Whisper.

Such a text is recognized by its content, since it is often in a file of another name or in a tag of the audio file.

Formats: https://en.wikipedia.org/wiki/LRC_(file_format), https://www.w3.org/TR/webvtt1/ (SRT is a subset in practice).
"""

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from songgen.lyrics.instrumental import says_instrumental

LONGEST_ESTIMATE_SECONDS = 12.0
"""Longest line if a text states starts only. Without a bound, the last line before an interlude would cover it."""

SHORTEST_ESTIMATE_SECONDS = 5.0
"""Estimated length of a line below which no line is cut, however fast the lines of the song follow each other."""

_CLOCK = r"(?:(\d{1,2}):)?(\d{1,3}):(\d{1,2})(?:[.:,](\d{1,3}))?"
_TAGS = re.compile(rf"\s*\[\s*{_CLOCK}\s*\]")
"""One time of LRC: [mm:ss.xx], [mm:ss], [mm:ss:xx] or [hh:mm:ss.xxx]."""

_WORD_TIME = re.compile(rf"\s*[<\[]\s*{_CLOCK}\s*[>\]]\s*")
"""Time of a word in enhanced LRC, in angle or square brackets, and in WebVTT."""

_SPAN = re.compile(rf"\s*\[?\s*{_CLOCK}\s*-->\s*{_CLOCK}\s*(\])?(.*)", re.DOTALL)
"""Line of times of SRT and WebVTT, with settings after it; in brackets with its text after it: output of Whisper."""

_PHRASE = re.compile(r"\s*\[(\d{1,9}),(\d{1,9})\](.*)")
"""Line of QRC and KRC: start and length in milliseconds."""

_SYLLABLE = re.compile(r"[(<]\d{1,9},\d{1,9}(?:,\d{1,9})?[)>]")
_LABEL = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)\t(\d{1,6}(?:\.\d{1,9})?)(?:\t(.*))?")
_DIALOGUE = re.compile(rf"Dialogue:[^,]*,\s*{_CLOCK}\s*,\s*{_CLOCK}\s*,(?:[^,]*,){{6}}(.*)")

_HEADER = re.compile(
    r"\s*\[\s*(ti|ar|al|au|by|re|ve|la|lr|length|offset|tool|id|hash|sign|qq|total|kana|encoding|language|artist"
    r"|title|album|#)\s*:([^\[\]]*)\]\s*",
    re.IGNORECASE,
)
"""Tag of an LRC header. `[verse: all]` is not one, so that only these names count."""

_CREDIT = re.compile(
    r"\s*(?:作?词|作?詞|作?曲|编曲|編曲|制作人?|製作人?|监制|監製|混音|母带|录音|錄音|和声|和聲|吉他|贝斯|鼓|键盘|演唱|原唱|出品|发行|OP|SP"
    r"|lyrics?(?: by)?|lyricist|music(?: by)?|composed by|composer|written by|writer|arranged by|arranger|produced by"
    r"|producer)\s*[:：]",
    re.IGNORECASE,
)
"""Start of a line that names an author, as music services write them at the beginning of a text with times."""

_SECTION_TAG = re.compile(r"\[([^\[\]]*)\]")
_SECTION_NAME = re.compile(r"[a-z]+(?:[- ][a-z]+)*")
_SILENT = re.compile(r"[\W_]*", re.UNICODE)
_MARKUP = re.compile(r"</?[a-z][^<>]*>|\{\\[^{}]*\}", re.IGNORECASE)
"""Tags of WebVTT and HTML, and overrides of ASS."""

_SINGER = re.compile(r"\s*[FMD]:\s*")


@dataclass(frozen=True)
class TimedLine:
    """A line of lyrics and when it is sung."""

    text: str
    """The line without times."""

    start: float
    """Seconds from the start of the recording."""

    end: float
    """Seconds from the start of the recording."""

    section: str = ""
    """Section of the lyrics that the line is in, such as `verse`."""


@dataclass(frozen=True)
class TimedLyrics:
    """A text that had times, without them."""

    text: str
    """The words, one line of text per sung line, with the section tags."""

    lines: tuple[TimedLine, ...]
    """Lines in the order of singing; empty if the times are not those of lines."""


@dataclass(frozen=True)
class _Cue:
    """A piece of the text in its order; `start` is None for a section tag or a line without a time."""

    text: str
    start: float | None = None
    end: float | None = None


def read_timed_lyrics(text: str) -> TimedLyrics | None:
    """Return lyrics without their times and header tags, and the times; None if the text has neither.

    A line ends at its stated end, or where the next one begins, at most `LONGEST_ESTIMATE_SECONDS` later. An empty line
    with a time ends the line before it. A line with several times is sung several times. If two lines have one time
    throughout, the second is a translation and left out.
    """
    lines = text.splitlines()
    # Times and words of a header may be anywhere in a text, so they are recognized line by line.
    if any(_SPAN.fullmatch(line) for line in lines):
        cues = list(_cues_of_spans(lines))
    elif any(_DIALOGUE.match(line) for line in lines):
        cues = list(_cues_of_dialogues(lines))
    elif all(_LABEL.fullmatch(line) for line in lines if line.strip()) and text.strip():
        cues = [
            _Cue(found[3] or "", float(found[1]), float(found[2]))
            for line in lines
            if (found := _LABEL.fullmatch(line))
        ]
    elif any(_TAGS.match(line) or _PHRASE.fullmatch(line) or _HEADER.fullmatch(line) for line in lines):
        cues = list(_cues_of_lrc(lines))
    else:
        return None
    timed = [cue for cue in cues if cue.start is not None]
    plain = [cue for cue in cues if cue.start is None and cue.text and not _SECTION_TAG.fullmatch(cue.text)]
    if len(timed) <= len(plain):
        # Times of sections, or a header alone: most lines have no time, so none is known for the words.
        return TimedLyrics(_joined(cue.text for cue in cues), ())
    cues = _in_order(_without_translations(_with_continuations(cues)))
    sung = _timed_lines(cues)
    # Without any words, the text may say that the song has none: its lines are kept for the reader.
    return TimedLyrics(_joined(cue.text for cue in cues if not (sung and _is_silent(cue.text))), sung)


def _joined(lines: Iterable[str]) -> str:
    """Join lines; several empty lines become one."""
    kept = (line for is_empty, group in groupby(lines, key=lambda line: not line)
            for line in ([""] if is_empty else group))  # fmt: skip
    return "\n".join(kept).strip()


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    # [01:02:03] is minutes, seconds and hundredths: a song seldom takes hours. [1:02:03.5] has a fraction.
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _time_of_lrc(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    assert minutes is not None and seconds is not None
    if hours is not None and fraction is None:
        return _seconds(None, hours, minutes, seconds)
    return _seconds(hours, minutes, seconds, fraction)


def _cues_of_lrc(lines: Sequence[str]) -> Iterator[_Cue]:
    shift = 0.0
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header:
            if header[1].lower() == "offset" and re.fullmatch(r"\s*[+-]?\d{1,7}\s*", header[2]):
                shift = int(header[2]) / 1000  # a positive offset shows lyrics earlier
            continue
        phrase = _PHRASE.fullmatch(line)
        if phrase:
            start = int(phrase[1]) / 1000
            words = _SYLLABLE.sub("", phrase[3])
            yield from _cue_of_line(words, start, start + int(phrase[2]) / 1000)
            continue
        starts, at = [], 0
        while found := _TAGS.match(line, at):
            starts.append(_time_of_lrc(found.groups()))
            at = found.end()
        words, end = _without_word_times(line[at:])
        if not starts:
            if not (line.lstrip().startswith('{"') or _CREDIT.match(words)):
                yield from _cue_of_line(words)
            continue
        for start in dict.fromkeys(starts):
            yield from _cue_of_line(words, max(0.0, start - shift), None if end is None else max(0.0, end - shift))


def _without_word_times(text: str) -> tuple[str, float | None]:
    """Return a line without the times of its words, and the time at its end if there is one."""
    found = list(_WORD_TIME.finditer(text))
    if not found:
        return text, None
    last = found[-1]
    end = _time_of_lrc(last.groups()) if last.end() == len(text) else None
    # Blanks around a time separate words; between syllables and between Chinese characters there are none.
    pieces = _WORD_TIME.sub(lambda time: " " if re.search(r"\s", time[0]) else "", text)
    return pieces, end


def _cues_of_spans(lines: Sequence[str]) -> Iterator[_Cue]:
    """Yield the cues of SRT, WebVTT or Whisper's output."""
    text: list[str] = []
    span: tuple[float, float] | None = None
    for line in [*lines, ""]:
        found = _SPAN.fullmatch(line)
        if found or not line.strip():
            if found and text and text[-1].strip().isdigit():
                text.pop()  # the number of the next cue, without an empty line before it
            if span and text:
                yield from _cue_of_line(" ".join(text), *span)
            text, span = [], None
        if found:
            values = found.groups()
            span = (_seconds(*values[:4]), _seconds(*values[4:8]))
            if values[8]:
                yield from _cue_of_line(values[9], *span)
                span = None
        elif span is not None and line.strip():
            text.append(line)


def _cues_of_dialogues(lines: Sequence[str]) -> Iterator[_Cue]:
    for line in lines:
        found = _DIALOGUE.match(line)
        if found:
            values = found.groups()
            yield from _cue_of_line(values[8].replace("\\N", " "), _seconds(*values[:4]), _seconds(*values[4:8]))


def _cue_of_line(text: str, start: float | None = None, end: float | None = None) -> Iterator[_Cue]:
    """Yield the cue of a line; a section tag before its words becomes a cue of its own."""
    words = " ".join(_MARKUP.sub("", text).replace("♪", " ").replace("♫", " ").split())
    words = _WORD_TIME.sub("", words) if start is not None else words
    if start is not None:
        words = _SINGER.sub("", words, count=1)
        if _CREDIT.match(words):
            return
        while found := _SECTION_TAG.match(words):
            yield _Cue(found[0])
            words = words[found.end() :].lstrip()
            if not words:
                return
    yield _Cue(words, start, end)


def _with_continuations(cues: Sequence[_Cue]) -> list[_Cue]:
    """Join lines without a time to the timed line before them; in front of the first, they are a title or credits."""
    joined: list[_Cue] = []
    for cue in cues:
        if cue.start is not None or _SECTION_TAG.fullmatch(cue.text):
            joined.append(cue)
        elif cue.text and joined and joined[-1].start is not None:
            joined[-1] = replace(joined[-1], text=f"{joined[-1].text} {cue.text}".strip())
    return joined


def _without_translations(cues: Sequence[_Cue]) -> list[_Cue]:
    """Leave out the second line of each time, if most times have two lines."""
    starts = [cue.start for cue in cues if cue.start is not None and not _is_silent(cue.text)]
    if len(starts) - len(set(starts)) < len(set(starts)) / 2 or len(set(starts)) < 2:
        return list(cues)
    seen: set[float] = set()
    kept = []
    for cue in cues:
        if cue.start is None or cue.start not in seen:
            kept.append(cue)
        if cue.start is not None and not _is_silent(cue.text):
            seen.add(cue.start)
    return kept


def _in_order(cues: Sequence[_Cue]) -> list[_Cue]:
    """Sort cues by time, since a chorus may be written once with several times; tags stay before their line."""
    groups: list[list[_Cue]] = [[]]
    for cue in cues:
        groups[-1].append(cue)
        if cue.start is not None:
            groups.append([])
    timed = [group for group in groups if group and group[-1].start is not None]
    timed.sort(key=lambda group: group[-1].start or 0.0)
    return [cue for group in timed for cue in group]


def _timed_lines(cues: Sequence[_Cue]) -> tuple[TimedLine, ...]:
    section, named = "", []
    for cue in cues:
        if cue.start is None:
            found = _SECTION_NAME.match(cue.text.strip("[] ").lower())
            section = found[0] if found else ""
        else:
            named.append((cue, cue.start, section))
    starts = [start for _, start, _ in named]
    gaps = [later - start for start, later in zip(starts, starts[1:], strict=False) if later > start]
    usual = statistics.median(gaps) if gaps else SHORTEST_ESTIMATE_SECONDS
    longest = min(max(2 * usual, SHORTEST_ESTIMATE_SECONDS), LONGEST_ESTIMATE_SECONDS)
    lines = []
    for index, (cue, start, name) in enumerate(named):
        following = next((later for later in starts[index + 1 :] if later > start), float("inf"))
        end = cue.end if cue.end is not None and cue.end > start else start + longest
        if not _is_silent(cue.text):
            lines.append(TimedLine(cue.text, start, min(end, following), name))
    return tuple(lines)


def _is_silent(text: str) -> bool:
    """Return whether nothing is sung in a line: it is empty, has only signs, or says that instruments play."""
    return _SILENT.fullmatch(text) is not None or says_instrumental(text)
