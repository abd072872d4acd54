"""Comparison of sung words: the units of a text, and the edit distance of two texts.

The units depend on the language. Where words are separated by blanks, the units are words. Chinese, Cantonese,
Japanese, Thai, Lao, Burmese and Khmer have no blanks, so the units are characters (a Latin word among them is one
unit).
Limitation: a recognizer may write the kanji of another reading, kanji for kana, or simplified for traditional
characters; these count as errors although the same was sung.

The edit distance is written here: rapidfuzz gives the same values, but saves only 0.3 s for a song of 500 words, and
would add 12 MB of compiled code in place of 15 lines.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from songgen.lyrics.chinese import speak_chinese_numbers
from songgen.lyrics.languages import ORDINAL_ENDINGS
from songgen.lyrics.numbers import speak_numbers

WITHOUT_BLANKS = frozenset(("zh", "yue", "ja", "th", "lo", "my", "km"))
"""Codes of languages that are written without blanks between words."""

_CHINESE = ("zh", "yue")
_APOSTROPHES = re.compile("['’ʼ`´]")
_ENDS_PHRASE = re.compile(r"[.!?,;:…。！？、，][\"'”’)]*$")
_ALWAYS_CAPITAL = re.compile(r"I(?:['’]\w+)?\b")
_DIGIT = re.compile(r"\d")
_KATAKANA_TO_HIRAGANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}
_SMALL_KANA = str.maketrans("ぁぃぅぇぉっゃゅょゎ", "あいうえおつやゆよわ")
"""Small kana; transcripts often have the large ones instead."""


def base_language(language: str) -> str:
    """Return a language code without its region: `zh` for `zh-cn`."""
    return language.strip().lower().replace("_", "-").split("-")[0]


def joiner(language: str) -> str:
    """Return the separator of words in this language: a blank or nothing."""
    return "" if base_language(language) in WITHOUT_BLANKS else " "


@lru_cache(maxsize=1 << 16)
def comparable_units(text: str, language: str) -> tuple[str, ...]:
    """Return the words (or characters, see above) of a text in the form in which they are compared.

    Compatibility forms (NFKC), case, apostrophes and punctuation are folded. Digits become words in the languages that
    `songgen.lyrics` knows ("24 hours" and "twenty-four hours" are the same). Katakana become hiragana, and small kana
    large ones.

    Args:
        text: a word, a line or a whole song, without section tags.
        language: code such as `en`; texts in an unknown language are split at blanks, and their digits are kept.
    """
    code = base_language(language)
    text = unicodedata.normalize("NFKC", text).casefold()
    if _DIGIT.search(text):
        if code in _CHINESE:
            text = speak_chinese_numbers(text)
        elif code in ORDINAL_ENDINGS:
            text = speak_numbers(text, code)
    if code == "ja":
        text = text.translate(_KATAKANA_TO_HIRAGANA).translate(_SMALL_KANA)
    text = _APOSTROPHES.sub("", text)
    text = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in text)
    words = text.split()
    if code not in WITHOUT_BLANKS:
        return tuple(words)
    return tuple(unit for word in words for unit in _characters(word))


def begins_phrase(before: str, word: str, language: str) -> bool:
    """Return whether a recognized word begins a line or a sentence, by punctuation and capital letters.

    Args:
        before: the word before it; empty at the beginning.
        word: the word.
        language: code; in German nouns have a capital letter, so that it says nothing.
    """
    if not before or _ENDS_PHRASE.search(before):
        return True
    is_capital = word[:1].isupper() and not _ALWAYS_CAPITAL.match(word)
    return is_capital and base_language(language) != "de"


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the least number of insertions, deletions and replacements that turn one sequence into the other.

    Args:
        left: words, or the characters of a string.
        right: of the same kind.
    """
    if not left or not right:
        return max(len(left), len(right))
    ids = {unit: number for number, unit in enumerate({*left, *right})}
    columns = np.array([ids[unit] for unit in right])
    steps = np.arange(len(columns) + 1)
    row = steps.copy()
    for number, unit in enumerate(left, start=1):
        best = np.empty_like(row)
        best[0] = number
        best[1:] = np.minimum(row[:-1] + (columns != ids[unit]), row[1:] + 1)
        # An insertion costs 1 for each column to the right, so a running minimum of (value - column) gives the row.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


@lru_cache(maxsize=1 << 18)
def word_similarity(left: str, right: str) -> float:
    """Return 1 - edit distance / length of the longer word: 1 for equal words, 0 for entirely different ones."""
    if left == right:
        return 1.0
    return 1.0 - edit_distance(left, right) / max(len(left), len(right))


def _characters(word: str) -> list[str]:
    """Split a word into characters; Latin letters and digits form one unit, and marks stay with their letter."""
    units: list[str] = []
    was_latin = False
    for character in word:
        is_mark = unicodedata.category(character)[0] == "M"
        is_latin = character.isdigit() or "LATIN" in unicodedata.name(character, "")
        if units and (is_mark or (is_latin and was_latin)):
            units[-1] += character
        else:
            units.append(character)
            was_latin = is_latin
    return units
