"""Numbers, ordinals, amounts of money and years as words, through num2words."""

import re
from collections.abc import Callable
from functools import cache, partial

from num2words import num2words

from songgen.lyrics.languages import ORDINAL_ENDINGS

_UNSPEAKABLE = (NotImplementedError, OverflowError, TypeError, ValueError, IndexError, KeyError)
"""Exceptions of num2words for a number, kind of number or currency that it does not support in a language."""

_COMMA_GROUPED = re.compile(r"\b\d{1,3}(,\d{3})*(\.\d+)?\b")
_DOT_GROUPED = re.compile(r"\b\d{1,3}(.\d{3})*(,\d+)?\b")
_GROUPED_BY_COMMA = ("en", "ru")
# The lookbehind lets a match begin at the first digit only, so that long digit runs take linear time.
_DECIMAL = re.compile(r"(?<![0-9])[0-9]+[.,][0-9]+")
_CARDINAL = re.compile(r"[0-9]+")

_AMOUNTS = {
    currency: re.compile(rf"{re.escape(sign)}[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*[0-9]{re.escape(sign)}")
    for currency, sign in (("GBP", "£"), ("USD", "$"), ("EUR", "€"))
}
_NO_CURRENCIES = ("ar",)
"""Languages in which num2words names the wrong currency; the sign is spoken as a symbol instead."""

_NO_DECIMALS = ("tr",)

_FRACTION_JOINERS = {"es": " con ", "fr": " et ", "de": " und ", "pt": " e ", "it": " e "}
"""Words between the whole part and the hundredths of an amount; a comma in other languages."""

_YEAR = re.compile(r"(?<![0-9$£€#])(?<![0-9][.,])((?:1[5-9]|20)[0-9]{2})(?![0-9$£€%°]|[.,][0-9]|st|nd|rd|th)(s\b)?")
"""A bare number from 1500 to 2099 (not an amount, percentage, ordinal or part of a number), or a decade's plural."""


def speak_numbers(text: str, language: str) -> str:
    """Return lower-case text with its numbers as words.

    The steps and their order are those of the published tokenizer: thousands separators are removed, then amounts of
    money, decimals, ordinals and whole numbers become words. English years precede all of them (see
    `normalize_lyrics`).

    Args:
        text: one text; a line break may be any character that is not part of a number.
        language: two-letter code of a language that num2words supports.
    """
    if language == "en":
        text = _YEAR.sub(_year, text)
    if language in _GROUPED_BY_COMMA:
        text = _COMMA_GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    else:
        text = _DOT_GROUPED.sub(lambda match: match[0].replace(".", ""), text)
    if language not in _NO_CURRENCIES:
        for currency, pattern in _AMOUNTS.items():
            text = pattern.sub(partial(_amount, language=language, currency=currency), text)
    if language not in _NO_DECIMALS:
        text = _DECIMAL.sub(lambda match: _decimal(match, language), text)
    ordinal = re.compile(rf"(?<![0-9])([0-9]+){ORDINAL_ENDINGS[language]}")
    text = ordinal.sub(lambda match: _try(lambda: _words(int(match[1]), language, ordinal=True), match[0]), text)
    return _CARDINAL.sub(lambda match: _cardinal(match[0], language), text)


def _words(value: int | float, language: str, **kind: object) -> str:
    return str(num2words(value, lang=language, **kind))


def _try(speak: Callable[[], str], otherwise: str) -> str:
    try:
        return speak()
    except _UNSPEAKABLE:
        return otherwise


def _cardinal(digits: str, language: str) -> str:
    """Return a whole number in words; digit by digit if it is too large for num2words."""
    return _try(lambda: _words(int(digits), language), "") or " ".join(_digit(int(digit), language) for digit in digits)


def _decimal(match: re.Match[str], language: str) -> str:
    return _try(lambda: _words(float(match[0].replace(",", ".")), language), match[0])


def _year(match: re.Match[str]) -> str:
    spoken = _words(int(match[1]), "en", to="year")
    if match[2] is None:
        return spoken
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


def _amount(match: re.Match[str], language: str, currency: str) -> str:
    """Return an amount of money in words, without hundredths if they are zero."""

    def speak() -> str:
        amount = float(re.sub(r"[^\d.]", "", match[0].replace(",", ".")))
        spoken = _words(amount, language, to="currency", currency=currency)
        whole, joiner, hundredths = spoken.rpartition(_FRACTION_JOINERS.get(language, ", "))
        return whole if joiner and amount.is_integer() and hundredths.startswith(_digit(0, language)) else spoken

    return _try(speak, match[0])


@cache
def _digit(digit: int, language: str) -> str:
    return _words(digit, language)
