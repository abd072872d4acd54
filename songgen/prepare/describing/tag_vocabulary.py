"""The valid tags, one of which is a song's most representative tag, and the canonical form of each tag."""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable

from songgen.data.manifests.music_facts import key_name
from songgen.data.manifests.tags import TAG_WORDS

STYLE, VOICE, INSTRUMENTS, MOOD, TEMPO, KEY = TAG_WORDS
"""Names of the kinds."""

INSTRUMENTAL, VOCAL_TAG = "instrumental", "vocal"

KIND_OF_TAG = {tag: kind for kind, tags in TAG_WORDS.items() for tag in tags}
"""Valid tag -> its kind. Tempi (`124 bpm`) and keys (`a minor`) are also valid, but not in a table."""

SLOWEST_WORD, FASTEST_WORD = 84, 120
"""Beats per minute: a tempo below the first is slow, one from the second on is fast."""

SIMILARITY = 0.6
"""Similarity from which a valid tag is suggested for a text that is not valid."""

_SYNONYMS = {
    "acoustic": ("unplugged",),
    "drum and bass": ("dnb", "d&b", "drum & bass", "drum n bass"),
    "edm": ("electronic dance music",),
    "electronic": ("electronica", "electronic music"),
    "hip-hop": ("hip hop music", "hiphop"),
    "lo-fi": ("lo-fi hip hop", "low fidelity"),
    "r&b": ("rnb", "rhythm and blues", "contemporary r&b", "r and b"),
    "rock and roll": ("rock 'n' roll", "rock n roll", "rock & roll"),
    "soundtrack": ("score", "ost"),
    "world music": ("world",),
    "female vocal": ("female", "female voice", "female singer", "female lead", "woman", "woman singing", "female rap"),
    "male vocal": ("male", "male voice", "male singer", "male lead", "man", "man singing", "male rap"),
    "vocal": ("voice", "singer", "singing", "lead vocal", "human voice"),
    "rap vocal": ("rapper", "rapping"),
    "child vocal": ("child voice", "children's choir"),
    "instrumental": ("no vocal", "no voice"),
    "drums": ("drum set", "acoustic drums"),
    "electric piano": ("rhodes", "wurlitzer"),
    "saxophone": ("sax", "alto saxophone", "tenor saxophone"),
    "synthesizer": ("synth", "synthesiser", "analog synthesizer"),
    "strings": ("string section", "string ensemble", "orchestral strings"),
    "upright bass": ("contrabass",),
    "melancholic": ("melancholy",),
    "relaxed": ("relaxing",),
    "fast tempo": ("fast", "up-tempo", "fast-paced"),
    "medium tempo": ("medium", "moderate", "moderate tempo", "mid-tempo", "medium paced"),
    "slow tempo": ("slow", "downbeat tempo", "slow-paced"),
    "major key": ("major",),
    "minor key": ("minor",),
}

_FIGURE = r"(?:(\d{2,3})\s*(?:-|–|to)\s*)?(\d{2,3}(?:\.\d+)?)"
_BEATS = re.compile(rf"{_FIGURE}\s*(?:bpm|beats? (?:per|a|/) ?min(?:ute)?)", re.IGNORECASE)
_NUMBER = re.compile(rf"(?:about |around |~|ca\. )?{_FIGURE}", re.IGNORECASE)


def _folded(tag: str) -> str:
    """Return the text without case, hyphens, marks and plural, which is equal for two spellings of a tag."""
    text = unicodedata.normalize("NFKC", tag).casefold().replace("’", "'")
    text = " ".join(re.sub(r"[\s_\-./]+", " ", text).split())
    return re.sub(r"(?<![s'])s\b", "", text)


_CANONICAL = {_folded(tag): tag for tag in KIND_OF_TAG} | {
    _folded(other): tag for tag, others in _SYNONYMS.items() for other in others
}


def canonical_tag(text: str, extra: Collection[str] = ()) -> str | None:
    """Return the valid tag for a text, or None.

    Args:
        text: `Hip Hop`, `synths`, `128 BPM`, `a minor`: case, hyphens, plurals and usual synonyms do not matter.
        extra: further valid tags, returned as given.
    """
    folded = _folded(text)
    for tag in extra:
        if _folded(tag) == folded:
            return tag
    if folded in _CANONICAL:
        return _CANONICAL[folded]
    if found := _BEATS.fullmatch(text.strip()):
        return _tag_of_beats(found)
    return key_name(text)


def written_tag(text: str) -> str:
    """Return a tag in the form of a data set: its valid form if there is one, else the text in lower case."""
    return canonical_tag(text) or " ".join(text.casefold().split())


def kind_of(tag: str) -> str | None:
    """Return the kind of a tag; None if it is not valid."""
    valid = canonical_tag(tag)
    if valid is None:
        return None
    return KIND_OF_TAG.get(valid) or (TEMPO if _BEATS.fullmatch(valid) else KEY)


def nearest_tags(text: str, extra: Iterable[str] = ()) -> list[str]:
    """Return up to three valid tags that are similar to a text, the most similar first."""
    valid = [*KIND_OF_TAG, *extra]
    # A valid tag inside the text ("sad piano ballad") is a better suggestion than one with a similar spelling.
    inside = [tag for tag in valid if f" {_folded(tag)} " in f" {_folded(text)} "]
    inside.sort(key=len, reverse=True)
    alike = difflib.get_close_matches(text.casefold(), valid, n=3, cutoff=SIMILARITY)
    return list(dict.fromkeys([*inside, *alike]))[:3]


def bpm_tag(beats_per_minute: float) -> str:
    """Return the tag of a tempo: `124 bpm`."""
    return f"{round(beats_per_minute)} bpm"


def tempo_tag(text: str) -> str | None:
    """Return the tag of a tempo in words or figures (`fast`, `around 120`, `mid-tempo groove`), or None."""
    if found := _BEATS.search(text) or _NUMBER.fullmatch(text.strip()):
        return _tag_of_beats(found)
    valid = canonical_tag(text)
    if valid is not None and kind_of(valid) == TEMPO:
        return valid
    words = {canonical_tag(word) for word in re.findall(r"[\w-]+", text)}
    named = [tag for tag in TAG_WORDS[TEMPO] if tag in words]
    return named[0] if len(named) == 1 else None


def _tag_of_beats(found: re.Match[str]) -> str:
    """Return the tag of a number, or of the middle of a range."""
    low, high = found.groups()
    return bpm_tag((float(low or high) + float(high)) / 2)


def vocabulary_text(extra: Collection[str] = ()) -> str:
    """Return the valid tags for a prompt, one line for each kind."""
    lines = [f"{kind}: {', '.join(tags)}" for kind, tags in TAG_WORDS.items()]
    if extra:
        lines.append(f"further: {', '.join(extra)}")
    return "\n".join(lines)
