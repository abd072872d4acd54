"""Captions and lyrics in the form in which the pipeline reads them, as ids of its tokenizer.

The form is that of the installed diffusers: its own function writes the prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from songgen.conditioning import caption_tokenizer_fingerprint
from songgen.data.manifests.music_facts import read_tempo, read_time_signature, stated_key
from songgen.families.encoding import MusicFacts, TextEncoder, TextTokens
from songgen.lyrics import is_known_language, language_code, states_language

INSTRUMENTAL = "[Instrumental]"
"""Lyrics of a song that nobody sings in."""

SIGNATURES = {"2/4": "2", "3/4": "3", "4/4": "4", "6/8": "6"}
"""Time signature -> how the model reads it; it was trained on these."""

_TEMPO, _KEY, _SIGNATURE = "bpm", "keyscale", "timesignature"
"""Names of facts in the pipeline."""

_PROBE = MusicFacts({_TEMPO: 92, _KEY: "A minor", _SIGNATURE: "4"})


class PipelinePrompts(TextEncoder):
    """Ids of the prompts of a pipeline, truncated where the pipeline truncates them."""

    uses_seconds = True

    def __init__(self, tokenizer: Any) -> None:
        """Use the open tokenizer of a pipeline, one of `transformers`."""
        self.tokenizer = tokenizer
        self.caption_fingerprint = self.lyrics_fingerprint = caption_tokenizer_fingerprint(tokenizer)
        self.max_caption_tokens = _default("encode_prompt", "max_text_length")
        self.max_lyrics_tokens = _default("encode_prompt", "max_lyric_length")
        self.form = repr((_format("a", "b", "en", _PROBE, 61.5), self.max_caption_tokens, self.max_lyrics_tokens))

    def language(self, stated: str) -> str:
        """Return the code of a language; one that is not known is used as it is stated."""
        return known_code(stated) or _plain(stated)

    def facts(self, values: Mapping[str, Any]) -> MusicFacts:
        """Read tempo, key and time signature from the columns of a row; what cannot be used is left out."""
        found: dict[str, Any] = {}
        left_out = []
        if (stated := values.get("tempo")) is not None:
            tempo = read_tempo(stated)
            found[_TEMPO] = None if tempo is None else round(tempo)
            left_out += ["tempo"] if tempo is None else []
        if stated := values.get("key"):
            key = stated_key(stated) if isinstance(stated, str) else ""
            found[_KEY] = key
            left_out += [] if key else ["key"]
        analysis = values.get("analysis")
        if stated := analysis.get("time_signature") if isinstance(analysis, dict) else None:
            found[_SIGNATURE] = SIGNATURES.get(read_time_signature(stated))
            left_out += [] if found[_SIGNATURE] else ["time signature"]
        return MusicFacts({name: value for name, value in found.items() if value}, tuple(left_out))

    def caption(self, text: str, facts: MusicFacts, seconds: float) -> TextTokens:
        """Encode the prompt of a caption, with the facts and the length in whole seconds."""
        return self._tokens(_format(text, "", "", facts, seconds)[0], self.max_caption_tokens)

    def lyrics(self, text: str, language: str) -> TextTokens:
        """Encode the prompt of lyrics in a language."""
        return self._tokens(_format("", text or INSTRUMENTAL, language, MusicFacts(), 0.0)[1], self.max_lyrics_tokens)

    @property
    def empty_caption_ids(self) -> tuple[int, ...]:
        """Ids of a dropped caption: the prompt without a text, facts or a length."""
        return tuple(self._tokens(_format("", "", "", MusicFacts(), 0.0)[0], self.max_caption_tokens).ids)

    @property
    def empty_lyrics_ids(self) -> tuple[int, ...]:
        """Ids of dropped lyrics.

        They are those of the prompt that the pipeline writes without any, which does not say whether somebody sings.
        """
        language = _default("_format_prompt", "vocal_language")
        return tuple(self._tokens(_format("", "", language, MusicFacts(), 0.0)[1], self.max_lyrics_tokens).ids)

    def _tokens(self, prompt: str, most: int) -> TextTokens:
        ids = self.tokenizer(prompt).input_ids
        kept = ids
        if len(ids) > most:
            # By the tokenizer, as the pipeline does it: it keeps special tokens that it adds at the end.
            kept = self.tokenizer(prompt, truncation=True, max_length=most).input_ids
        return TextTokens(list(kept), len(ids))


def _format(caption: str, lyrics: str, language: str, facts: MusicFacts, seconds: float) -> tuple[str, str]:
    """Return the prompts of a caption and of lyrics."""
    from diffusers import AceStepPipeline

    # The class stands for an instance: the method only uses the class's static methods, and no network.
    texts: tuple[str, str] = AceStepPipeline._format_prompt(
        AceStepPipeline,  # type: ignore[arg-type]
        prompt=caption,
        lyrics=lyrics,
        vocal_language=language,
        audio_duration=seconds,
        **facts.values,
    )
    return texts


def _default(method: str, parameter: str) -> Any:
    """Return the default of a parameter of the pipeline."""
    from diffusers import AceStepPipeline

    return inspect.signature(getattr(AceStepPipeline, method)).parameters[parameter].default


def known_code(stated: str) -> str | None:
    """Return the code of a language, or None if it is not known."""
    if is_known_language(stated):
        return language_code(stated)
    plain, codes = _plain(stated), _more_languages()
    if plain in codes:
        return codes[plain]
    first, *others = plain.split("-")
    # A later part of three letters is a language (`zh-yue`), one of two is a country (`sv-se`).
    names = [*(part for part in others if len(part) == 3), first]
    return next((name for name in names if name in codes.values()), None)


def require_known_language(stated: str) -> None:
    """Check that a language that was given by hand is a known one, and no typing error.

    Raises:
        ValueError: if it is not; the message lists the languages.
    """
    if states_language(stated) and known_code(stated) is None:
        known = ", ".join(f"{code} ({name})" for name, code in sorted(_more_languages().items()))
        raise ValueError(f"--language {stated!r} is not a known language; known ones: {known}")


def _plain(stated: str) -> str:
    return " ".join(stated.casefold().replace("_", "-").split())


@cache
def _more_languages() -> dict[str, str]:
    """Return the codes of languages by their English names, of more languages than lyrics tokenizers know."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return dict(TO_LANGUAGE_CODE)
