"""Numbers, ordinals, amounts of money and years as words, through num2words."""

import re
from collections.abc import Callable
from functools import cache, partial

from num2words import num2words

from songgen.lyrics.languages import ORDINAL_ENDINGS

_UNSPEAKABLE = (NotImplementedError, OverflowError, TypeError, ValueError, IndexError, KeyError)
"""What num2words raises for a number, a kind of number or a currency that it does not know in a language."""

_COMMA_GROUPED = re.compile(r"\b\d{1,3}(,\d{3})*(\.\d+)?\b")
_DOT_GROUPED = re.compile(r"\b\d{1,3}(.\d{3})*(,\d+)?\b")
_GROUPED_BY_COMMA = ("en", "ru")
# A match begins where its digits begin: said with a lookbehind, long runs of digits take linear time.
_DECIMAL = re.compile(r"(?<![0-9])[0-9]+[.,][0-9]+")
_CARDINAL = re.compile(r"[0-9]+")

_AMOUNTS = {
    currency: re.compile(rf"{re.escape(sign)}[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*[0-9]{re.escape(sign)}")
    for currency, sign in (("GBP", "£"), ("USD", "$"), ("EUR", "€"))
}
_NO_CURRENCIES = ("ar",)
"""Languages in which num2words names another currency than the one asked for: the sign is spoken as a symbol."""

_NO_DECIMALS = ("tr",)

_FRACTION_JOINERS = {"es": " con ", "fr": " et ", "de": " und ", "pt": " e ", "it": " e "}
"""What stands between whole and hundredth parts of an amount; elsewhere a comma."""

_YEAR = re.compile(r"(?<![0-9$£€#])(?<![0-9][.,])((?:1[5-9]|20)[0-9]{2})(?![0-9$£€%°]|[.,][0-9]|st|nd|rd|th)(s\b)?")
"""A bare number from 1500 to 2099, with the plural of a decade: no amount, share, ordinal or part of a number."""


def speak_numbers(text: str, language: str) -> str:
    """Return lower-case text with its numbers as words.

    The steps and their order are the published tokenizer's: thousands separators go, then amounts of money,
    decimals, ordinals and whole numbers are spoken. English years come before all of them (see `normalize_lyrics`).

    Args:
        text: one text; line breaks may be any character that belongs to no number.
        language: two-letter code of a language that num2words speaks.
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
    """Speak a whole number; one beyond what num2words knows is read digit by digit."""
    return _try(lambda: _words(int(digits), language), "") or " ".join(_digit(int(digit), language) for digit in digits)


def _decimal(match: re.Match[str], language: str) -> str:
    return _try(lambda: _words(float(match[0].replace(",", ".")), language), match[0])


def _year(match: re.Match[str]) -> str:
    spoken = _words(int(match[1]), "en", to="year")
    if match[2] is None:
        return spoken
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


def _amount(match: re.Match[str], language: str, currency: str) -> str:
    """Speak an amount of money, without the hundredths where there are none."""

    def speak() -> str:
        amount = float(re.sub(r"[^\d.]", "", match[0].replace(",", ".")))
        spoken = _words(amount, language, to="currency", currency=currency)
        whole, joiner, hundredths = spoken.rpartition(_FRACTION_JOINERS.get(language, ", "))
        return whole if joiner and amount.is_integer() and hundredths.startswith(_digit(0, language)) else spoken

    return _try(speak, match[0])


@cache
def _digit(digit: int, language: str) -> str:
    return _words(digit, language)
