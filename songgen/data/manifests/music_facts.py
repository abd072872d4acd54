"""Facts of music as rows state them: tempo, key and time signature, read or refused."""

import math
import re
from typing import Any

SLOWEST, FASTEST = 30.0, 300.0
"""Range of a tempo in beats per minute; other numbers, such as 0 for "not known", do not count."""

_NOTES = "C C# D D# E F F# G G# A A# B Ab Cb Db Eb Fb Gb Bb E# B#".split()
_KEY_NAME = re.compile(r"([a-g])\s*(#|♯|b|♭|[ -]?sharp|[ -]?flat)?[ -](major|minor)")
_SHORT_KEY = re.compile(r"([A-G])([#b♯♭]?)\s*(m|min|maj)?")
_SIGNATURE = re.compile(r"([1-9]\d?)\s*/\s*(1|2|4|8|16)")


def read_tempo(value: Any) -> float | None:
    """Return a tempo in beats per minute, of a number or a text such as `92,5`; None if it is not plausible."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        tempo = float(value.strip().replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return tempo if math.isfinite(tempo) and SLOWEST <= tempo <= FASTEST else None


def key_name(text: str) -> str | None:
    """Return a key in the form `C# minor`, of a text such as `c# minor` or `b flat Major`; None if it is not a key."""
    found = _KEY_NAME.fullmatch(" ".join(text.casefold().split()))
    if not found:
        return None
    note, accidental, mode = found.groups()
    sign = {"": "", "#": "#", "♯": "#", "sharp": "#"}.get((accidental or "").strip(" -"), "b")
    return f"{note.upper()}{sign} {mode}" if f"{note.upper()}{sign}" in _NOTES else None


def stated_key(text: str) -> str:
    """Return the key of a text such as `Am`, `Ebm`, `A minor`; empty if it is none. DJ codes (`8A`) are not read."""
    found = _SHORT_KEY.fullmatch(text.strip())
    if found is None:
        return key_name(text) or ""
    note, accidental, mode = found.groups()
    sign = {"♯": "#", "♭": "b"}.get(accidental, accidental)
    return key_name(f"{note}{sign} {'minor' if mode in ('m', 'min') else 'major'}") or ""


def read_time_signature(value: Any) -> str:
    """Return a time signature in the form `6/8`; empty if it is none."""
    found = _SIGNATURE.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"{found[1]}/{found[2]}" if found else ""
