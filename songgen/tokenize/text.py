"""Validation of captions and lyrics on input, their normalization to NFC, and tokenization."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from songgen.data.manifests.clip import ClipRow, Rejection, is_storable_text
from songgen.families.encoding import Encoders, MusicFacts
from songgen.tokenize.options import VARIANTS_COLUMN, TokenizeOptions


@dataclass(frozen=True)
class EncodedText:
    """Encoded texts of one clip."""

    caption: str
    """Caption as stored."""

    lyrics: str
    """Lyrics as stored; empty for an instrumental."""

    language: str
    """Code of the language."""

    caption_ids: list[int]
    """Tokens of the caption."""

    lyrics_ids: list[int]
    """Tokens of the lyrics, including start and stop."""

    variant_ids: tuple[list[int], ...] = ()
    """Tokens of further descriptions, each different from the caption and from the others."""

    kept: dict[str, str] = field(default_factory=dict)
    """Kept columns as they are stored."""

    facts_left_out: tuple[str, ...] = ()
    """Names of facts that the row states and that cannot be used."""

    truncated: tuple[str, ...] = ()
    """Names of texts that were truncated to the length that the model reads."""


def knows_language(language: str, encoders: Encoders) -> bool:
    """Return whether lyrics in a language, as a row names it, can be tokenized.

    Raises:
        ValueError: if a package that the language needs is not installed.
    """
    try:
        encoders.texts.lyrics("a", encoders.texts.language(language))
    except ValueError as error:
        if _lacks_package(error):
            raise
        return False
    return True


def _lacks_package(error: ValueError) -> bool:
    """Return whether lyrics cannot be tokenized because of this machine, and not because of the row."""
    return isinstance(error.__cause__, ImportError | RuntimeError)


def encode_text(row: ClipRow, encoders: Encoders, options: TokenizeOptions, seconds: float) -> EncodedText | Rejection:
    """Validate and tokenize the texts of a row. Problems of a text are returned as a rejection, not raised.

    Args:
        row: the row.
        encoders: encoders of the run.
        options: limits on texts.
        seconds: length of the clip; before it is known, the longest that is allowed.

    Raises:
        ValueError: if a package that the language needs is not installed.
    """
    if row.code:
        return row.reject(row.code, row.reason)
    texts = {}
    for name, text in (("caption", row.caption), ("lyrics", row.lyrics)):
        if not is_storable_text(text):
            return row.reject("bad_text", f"the {name} holds NUL or half a surrogate pair")
        texts[name] = unicodedata.normalize("NFC", text).strip()
        if len(texts[name]) > options.longest_text:
            reason = f"the {name} has {len(texts[name])} characters; max_text_length is {options.longest_text}"
            return row.reject(f"{name}_too_long", reason)
    if not texts["caption"]:
        return row.reject("missing_caption", "the caption is empty")
    try:
        language = encoders.texts.language(row.language)
        lyrics = encoders.texts.lyrics(texts["lyrics"], language)
    except ValueError as error:
        if _lacks_package(error):
            raise
        return row.reject("unknown_language", str(error))
    facts = encoders.texts.facts(row.extra)
    caption = encoders.texts.caption(texts["caption"], facts, seconds)
    tokens = {"caption": caption, "lyrics": lyrics}
    limits = {"caption": options.max_caption_tokens, "lyrics": options.max_lyrics_tokens}
    for name, limit in limits.items():
        if limit is not None and (length := tokens[name].length) > limit:
            return row.reject(f"{name}_too_many_tokens", f"the {name} has {length} tokens; the limit is {limit}")
    return EncodedText(
        texts["caption"],
        texts["lyrics"],
        language,
        caption.ids,
        lyrics.ids,
        variant_ids=tuple(_encode_variants(row, texts["caption"], encoders, options, facts, seconds)),
        kept={name: _kept_text(row.extra.get(name)) for name in options.kept_columns},
        facts_left_out=facts.left_out,
        truncated=tuple(name for name, text in tokens.items() if text.length > len(text.ids)),
    )


def _kept_text(value: Any) -> str:
    """Return the value of a kept column as text: texts of a list joined by commas, null as empty, others as JSON.

    Characters that cannot be stored are left out, since the column is not worth losing a clip for.
    """
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        value = ", ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return unicodedata.normalize("NFC", "".join(filter(is_storable_text, text))).strip()


def _encode_variants(
    row: ClipRow, caption: str, encoders: Encoders, options: TokenizeOptions, facts: MusicFacts, seconds: float
) -> Iterator[list[int]]:
    """Yield the tokens of further descriptions. They are optional, so those that cannot be used are skipped."""
    variants = row.extra.get(VARIANTS_COLUMN)
    known = {caption, ""}
    for text in variants.values() if isinstance(variants, dict) else ():
        if not isinstance(text, str) or not is_storable_text(text) or len(text) > options.longest_text:
            continue
        text = unicodedata.normalize("NFC", text).strip()
        if text in known:
            continue
        known.add(text)
        tokens = encoders.texts.caption(text, facts, seconds)
        if options.max_caption_tokens is None or tokens.length <= options.max_caption_tokens:
            yield tokens.ids
