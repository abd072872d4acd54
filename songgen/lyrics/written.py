"""Lyrics as people and programs write them -> words, line by line: markup, invisible and full-width characters, times.

This is done once, when a row is read. `normalize_lyrics` then turns the words into what the tokenizer reads.
"""

import html
import re
import unicodedata
from dataclasses import dataclass

from songgen.lyrics.instrumental import says_instrumental, says_unavailable
from songgen.lyrics.timed import TimedLine, read_timed_lyrics

_ELEMENTS = (
    "a|abbr|b|big|blockquote|body|br|center|cite|code|dd|div|dl|dt|em|font|g|h[1-6]|head|hr|html|i|ins|label|li|mark|ol|p"
    "|pre|q|rb|rp|rt|ruby|s|section|small|span|strike|strong|sub|sup|table|tbody|td|tr|tt|u|ul"
)
_BREAKING_TAG = re.compile(r"[ \t]*</?(?:br|p|div|li|hr|h[1-6]|tr|dd|dt|blockquote)\b[^<>]*>[ \t]*\n?", re.IGNORECASE)
_IGNORED_ELEMENT = re.compile(r"<(script|style|rt|rp)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"</?(?:{_ELEMENTS})\b(?:\s[^<>]*)?/?>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
"""HTML. Only known elements count: `<3` is a heart, and `<verse>` may be a section."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_ESCAPED_BREAK = re.compile(r"(?:\\r)?\\n|\\r(?![a-z])")
"""Line breaks that were escaped once too often; `\\r` before a letter is not one."""

_BREAKS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")

_BLANKS = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
"""Blanks of other widths."""

_INVISIBLE = re.compile(r"[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
                        r"\ufff9-\ufffb\U000e0000-\U000e01ef\x01-\x08\x0e-\x1b\x1f\x7f\x80-\x84\x86-\x9f]")  # fmt: skip
"""Characters without a glyph: zero-width blanks, marks of direction, selectors of variants, soft hyphens, controls."""

_JOINERS = re.compile(r"(?<![\u0600-\u0dff])[\u200c\u200d]|[\u200c\u200d](?![\u0600-\u0dff])")
"""Zero-width joiners, except between Arabic and Indian letters, whose form depends on them."""

_FULL_WIDTH = re.compile(r"[\uff01-\uff5e]+")
_PUNCTUATION = "！，．：；？（）～"
"""Full-width punctuation that is usual in Chinese and Japanese, and stays there."""

_PRESENTED = re.compile(r"[\ufb00-\ufb06\uff5f-\uff9f\uffe0-\uffe6\U0001d400-\U0001d7ff]+")
"""Ligatures, half-width kana, wide currency signs, mathematical letters (as in decorated names)."""

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_CJK_TAG = re.compile(r"^[ \t]*[【［]([^【】［］\n]{1,40})[】］][ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class WrittenLyrics:
    """Lyrics as they were written, and what they mean."""

    text: str
    """The words; empty if nobody sings, or if no words are known."""

    lines: tuple[TimedLine, ...] = ()
    """Lines with their times, if the text had them."""

    is_instrumental: bool = False
    """Whether the text states that nobody sings."""

    notes: tuple[str, ...] = ()
    """What was left out, for a notice; one phrase each."""


def read_written_lyrics(text: str) -> WrittenLyrics:
    """Read lyrics of a row or a file.

    NUL and lone surrogates are kept, so that whoever stores the text can refuse it.
    """
    notes = []
    plain = without_markup(text)
    if plain != text:
        notes.append("HTML in the lyrics is left out")
    cleaned = clean_text(plain)
    timed = read_timed_lyrics(cleaned)
    lines: tuple[TimedLine, ...] = ()
    if timed is not None:
        cleaned, lines = timed.text, timed.lines
        if not lines:
            notes.append("times and header tags in the lyrics are left out")
    if says_instrumental(cleaned):
        return WrittenLyrics("", is_instrumental=True)
    if says_unavailable(cleaned):
        return WrittenLyrics("", notes=("the lyrics are a placeholder, so the song has no lyrics",))
    return WrittenLyrics(cleaned, lines, notes=tuple(notes))


def without_markup(text: str) -> str:
    """Return a text with HTML tags left out and entities as characters, also if they were escaped twice."""
    for _ in range(2):
        if not _ENTITY.search(text):
            break
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if not (_TAG.search(text) or _IGNORED_ELEMENT.search(text)):
        return text
    text = _BREAKING_TAG.sub("\n", _IGNORED_ELEMENT.sub("", text))
    return re.sub(r"\n{3,}", "\n\n", _TAG.sub("", text))


def clean_text(text: str) -> str:
    """Return a text in composed form (NFC) with plain blanks and line breaks, without invisible characters.

    Full-width letters, digits and signs become plain ones. Full-width punctuation stays in a text with Chinese or
    Japanese characters.
    """
    text = _BREAKS.sub("\n", _ESCAPED_BREAK.sub("\n", text))
    text = _INVISIBLE.sub("", _JOINERS.sub("", _BLANKS.sub(" ", text)))
    text = _CJK_TAG.sub(r"[\1]", text)
    text = _PRESENTED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    kept = _PUNCTUATION if _CJK.search(text) else ""
    text = _FULL_WIDTH.sub(lambda found: "".join(_narrow(character, kept) for character in found[0]), text)
    return unicodedata.normalize("NFC", text).strip()


def _narrow(character: str, kept: str) -> str:
    return character if character in kept else unicodedata.normalize("NFKC", character)
