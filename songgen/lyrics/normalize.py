"""Normalization of written lyrics to the words as sung, which the lyrics tokenizer reads."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from songgen.lyrics.chinese import commas_for_punctuation, pinyin, speak_chinese_numbers
from songgen.lyrics.languages import ABBREVIATIONS, DOTLESS_ABBREVIATIONS, SYMBOLS, language_code
from songgen.lyrics.numbers import speak_numbers

NORMALIZATION_VERSION = 1
"""Version of the normalization, part of every tokenizer's fingerprint; raised when any lyrics give another text."""

_LINE_BREAK = "\0"
"""Placeholder of a line break during normalization: not part of a word, number or space, and refused in input."""

_WHITESPACE = re.compile(r"\s+")
_SECTION_TAG = re.compile(r"(\[[^\[\]]*\])")
_TURKISH_CAPITALS = str.maketrans("İÖÜ", "iöü")


def normalize_lyrics(text: str, language: str) -> str:
    """Return lyrics as the tokenizer reads them: lower case, numbers and symbols as words, on one line.

    Line breaks become `.`, white space becomes a single space, and `"` is removed. Numbers, abbreviations and symbols
    are replaced by words of the language, in this order; Chinese becomes pinyin, Japanese and Korean are romanized,
    and Hindi is only converted to lower case. Section tags such as `[verse]` are kept.

    The result equals that of the published tokenizer except in these cases, where the published one cannot be sung:

    - English numbers from 1500 to 2099 on their own are years: 1999 is "nineteen ninety-nine" and not "one
      thousand, nine hundred and ninety-nine"; 1990s is "nineteen nineties".
    - A line break ends a number or an abbreviation: "on 3" above "5 more" is not the decimal 3.5.
    - In es, fr, it, nl and pt an ordinal ending must end the word ("20euros" is not an ordinal).
    - What num2words does not support is left to the next step (a sign as a symbol, digits one by one) instead of an
      error; a whole amount of money loses only its zero hundredths; section tags survive in zh, ja and ko.

    Args:
        text: lyrics, with line breaks between lines; may be empty.
        language: code (`en`, `zh-cn`) or English name (`english`).

    Raises:
        ValueError: if the language is unknown, if the text contains NUL or a lone surrogate, or if the package that
            romanizes the language is missing.
    """
    code = language_code(language)
    text = _checked(text)
    text = re.sub(r"\r\n?|\n", _LINE_BREAK, text.strip())
    if code == "zh":
        text = _outside_tags(text.lower(), _chinese)
    elif code == "ja":
        text = _outside_tags(text, lambda part: _LINE_BREAK.join(map(_japanese, part.split(_LINE_BREAK)))).lower()
    elif code == "hi":
        text = text.lower()
    else:
        text = _spoken(text, code)
        if code == "ko":
            text = _outside_tags(text, _korean)
    return _WHITESPACE.sub(" ", text.replace(_LINE_BREAK, ".")).strip()


def _checked(text: str) -> str:
    """Return the text in composed form (NFC); raise `ValueError` if it contains NUL or a lone surrogate."""
    for position, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            name = "NUL" if character == "\0" else f"a lone surrogate (U+{ord(character):04X})"
            raise ValueError(f"lyrics contain {name} at character {position}; remove it")
    return unicodedata.normalize("NFC", text)


def _spoken(text: str, code: str) -> str:
    """Convert to lower case, and replace numbers, abbreviations and symbols by words."""
    text = text.replace('"', "")
    if code == "tr":
        text = text.translate(_TURKISH_CAPITALS)  # str.lower() turns İ into i and a combining dot.
    text = speak_numbers(text.lower(), code)
    for pattern, spoken in _abbreviations(code):
        text = pattern.sub(spoken, text)
    return _speak_symbols(text, code)


def _speak_symbols(text: str, code: str) -> str:
    return text.translate({ord(symbol): f" {spoken} " for symbol, spoken in SYMBOLS[code].items()})


@cache
def _abbreviations(code: str) -> list[tuple[re.Pattern[str], str]]:
    dotted = {rf"\b{short}\.": spoken for short, spoken in ABBREVIATIONS.get(code, {}).items()}
    dotless = {rf"\b{short}\b": spoken for short, spoken in DOTLESS_ABBREVIATIONS.get(code, {}).items()}
    return [(re.compile(pattern), spoken) for pattern, spoken in (dotted | dotless).items()]


def _outside_tags(text: str, change: Callable[[str], str]) -> str:
    """Apply a function to everything except the section tags."""
    parts = _SECTION_TAG.split(text)  # The pattern is a group, so that tags are at the odd places.
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _chinese(text: str) -> str:
    text = speak_chinese_numbers(text.replace('"', ""))
    text = commas_for_punctuation(text.replace(_LINE_BREAK, "."))
    return pinyin(_WHITESPACE.sub(" ", _speak_symbols(text, "zh")))


def _japanese(line: str) -> str:
    return str(_japanese_romanizer().romaji(line)) if line.strip() else line


@cache
def _japanese_romanizer() -> Any:
    try:
        import cutlet

        return cutlet.Cutlet()
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            "Japanese lyrics need the packages cutlet and unidic-lite: pip install cutlet unidic-lite"
        ) from error


def _korean(text: str) -> str:
    return str(_korean_romanizer().translit(text))


@cache
def _korean_romanizer() -> Any:
    try:
        from hangul_romanize import Transliter
        from hangul_romanize.rule import academic
    except ImportError as error:
        raise ValueError("Korean lyrics need the package hangul_romanize: pip install hangul_romanize") from error
    return Transliter(academic)
