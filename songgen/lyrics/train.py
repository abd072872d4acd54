"""Training of a lyrics vocabulary of the published kind on the lyrics of a corpus."""

import json
import logging
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer

from songgen.lyrics.languages import COMMON_CHARACTERS, LANGUAGES, LETTERS, language_code
from songgen.lyrics.normalize import normalize_lyrics
from songgen.lyrics.tokenizer import (
    SECTION_TAGS,
    SPECIAL_TOKEN_IDS,
    UNKNOWN_TOKEN,
    VoiceBpeTokenizer,
    language_tag,
)

logger = logging.getLogger(__name__)

_PUBLISHED_LANGUAGE_IDS = {
    "en": 259,
    "de": 260,
    "fr": 262,
    "ru": 267,
    "es": 284,
    "it": 285,
    "pt": 286,
    "cs": 293,
    "pl": 294,
    "tr": 295,
    "nl": 297,
}
"""Language tags that keep their published id; the published ids of the other six are 5022 and above."""

_FIRST_TAG_ID = 263
"""First id of the other language tags and the section tags, which fill the gaps between the published ids."""


def train_lyrics_tokenizer(
    lines: Iterable[tuple[str, str]], vocab_size: int, languages: Iterable[str] | None = None
) -> VoiceBpeTokenizer:
    """Train a lyrics vocabulary; the same lines, in any order, give the same file.

    Ids: `[STOP]` is 0, `[UNK]` 1, `[SPACE]` 2. `[en]` (259), `[de]` (260), `[START]` (261) and nine more languages have
    their published ids; the other language tags and the section tags fill the gaps between these.
    Single characters and merged pieces have the remaining ids. If a small corpus does not need all ids below the last
    tag, the unused ones are `[RESERVED_id]`:

        0       1      2        3 ...          259   260   261      262   263 ...             297   298 ...
        [STOP]  [UNK]  [SPACE]  chars, pieces  [en]  [de]  [START]  [fr]  other tags, [ru]..  [nl]  tags, pieces

    Without any words (instrumental music) there are only tags and single letters, of all languages.

    Args:
        lines: (lyrics, language) of each song; the language as code or English name.
        vocab_size: maximum number of entries; there are fewer if the corpus has no more pieces to merge.
        languages: languages whose letters the vocabulary must contain; by default those of the lines.

    Raises:
        ValueError: if `vocab_size` is too small for the tags and characters.
    """
    texts = [(normalize_lyrics(text, language), language_code(language)) for text, language in lines]
    words = Counter(word for text, _ in texts for word in _without_tags(text).split(" ") if word)
    if not any(character.isalnum() for word in words for character in word):  # the tags' line breaks are full stops
        languages = languages or LANGUAGES
        logger.warning(
            "no lyrics to train a tokenizer from: the vocabulary has tags and single letters (of %d languages), which "
            "is enough for instrumental music; for a model that will also sing, train it on texts with lyrics",
            len(set(languages)),
        )
    wanted = {language_code(language) for language in languages or (code for _, code in texts)}
    required = COMMON_CHARACTERS + "".join(LETTERS[code] for code in sorted(wanted))
    characters = sorted({character for word in words for character in word} | set(required))
    fixed = _fixed_ids()
    minimum = max(max(fixed.values()) + 1, len(fixed) + len(characters))
    if vocab_size < minimum:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: {len(fixed)} tags and {len(characters)} characters need {minimum}"
        )
    pieces, merges = _train(words, characters, vocab_size - len(fixed))
    return VoiceBpeTokenizer.from_string(_serialized(fixed, pieces, merges))


def _without_tags(text: str) -> str:
    for tag in SECTION_TAGS:
        text = text.replace(tag, " ")
    return text


def _fixed_ids() -> dict[str, int]:
    """Return the ids of all tokens that are the same for every corpus."""
    fixed = SPECIAL_TOKEN_IDS | {language_tag(code): place for code, place in _PUBLISHED_LANGUAGE_IDS.items()}
    movable = [language_tag(code) for code in LANGUAGES if code not in _PUBLISHED_LANGUAGE_IDS] + list(SECTION_TAGS)
    taken = set(fixed.values())
    free = (place for place in range(_FIRST_TAG_ID, _FIRST_TAG_ID + len(taken) + len(movable)) if place not in taken)
    return fixed | dict(zip(movable, free, strict=False))


def _train(words: Counter[str], characters: list[str], size: int) -> tuple[list[str], list[list[str]]]:
    """Learn merges, and return the pieces (characters first, then in the order of learning) and the merges."""
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=characters, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator((word for word in words for _ in range(words[word])), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    assert set(characters) <= set(pieces), "the trainer keeps its alphabet"
    return pieces, model["merges"]


def _serialized(fixed: dict[str, int], pieces: list[str], merges: list[list[str]]) -> str:
    """Give the pieces the ids that the tags leave free, and return the content of a `tokenizers` file."""
    ids = dict(fixed)
    taken = set(fixed.values())
    place = 0
    for piece in pieces:
        while place in taken:
            place += 1
        ids[piece] = place
        place += 1
    reserved = {f"[RESERVED_{free}]": free for free in range(place, max(taken)) if free not in taken}
    tokenizer = Tokenizer(BPE(ids | reserved, [(left, right) for left, right in merges], unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(sorted(fixed, key=fixed.__getitem__))
    return str(tokenizer.to_str())
