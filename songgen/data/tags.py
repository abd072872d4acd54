"""What a caption should speak of: style, voice, instruments, mood, and if known tempo and key.

The kinds and their example words are those of the ACE-Step training guide. Only whether a caption names a kind at all
is looked at, so that the report can say what a corpus is silent about.
"""

import re

_WORDS = {
    "style": "rap hip.?hop pop rock electronic electro techno house trance dance edm jazz blues folk country metal "
    "punk reggae soul funk disco classical ambient r&b rnb gospel latin indie ballad opera swing ska grunge lullaby "
    "march waltz",
    "voice": r"(?:fe)?male vocals? vocals? voices? singer sings? singing sung (?:fe)?male spoken.word rapper choir "
    "soprano alto tenor baritone man woman instrumental",
    "instruments": r"(?:\w+\s)?guitars? pianos? synth\w* drums? bass\w* violins? cellos? strings? flutes? trumpets? "
    "saxophones? organs? keyboards? harps? banjos? ukuleles? percussion brass pads? harmonicas? accordions? bells?",
    "mood": "energetic calm aggressive melanchol(?:y|ic) happy sad driving atmospheric emotional uplifting dark bright "
    "romantic relax(?:ed|ing) peaceful tense dreamy joyful angry gentle mellow cheerful passionate warm soft upbeat",
    "tempo": r"\d+\s*bpm (?:fast|slow|medium|mid|moderate|up)\W?tempo tempo fast slow",
    "key": r"(?:[a-g][#b♯♭]?\W(?:sharp\W|flat\W)?)?(?:major|minor)",
}

TAG_KINDS = {kind: re.compile(rf"\b(?:{'|'.join(words.split())})\b", re.IGNORECASE) for kind, words in _WORDS.items()}
"""Kind of tag -> pattern that finds one."""


def missing_tag_kinds(caption: str) -> tuple[str, ...]:
    """Return the kinds of tags that a caption does not name."""
    return tuple(kind for kind, pattern in TAG_KINDS.items() if not pattern.search(caption))
