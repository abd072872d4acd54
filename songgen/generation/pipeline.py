"""`model.generate`: from the processor's inputs to sound.

Shapes: B songs, R sequences a song, L text length.
"""

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from songgen.generation.decoding import ProgressCallback, evaluating, generate_codes, stream_codes
from songgen.generation.options import GenerationOptions
from songgen.generation.song_audio import DualTrackAudio, SongAudio, decode_songs
from songgen.generation.streaming import DEFAULT_CHUNK_SECONDS, frames_of_chunk, stream_audio
from songgen.models.modeling_songgen import CONDITION_KEYWORDS

if TYPE_CHECKING:
    from songgen.models import Conditions, SongGenForConditionalGeneration

logger = logging.getLogger(__name__)

_OPTION_KEYWORDS = tuple(field.name for field in fields(GenerationOptions))


def generate(
    model: "SongGenForConditionalGeneration",
    *,
    on_step: ProgressCallback | None = None,
    return_songs: bool = False,
    **keywords: Any,
) -> Tensor | DualTrackAudio | SongAudio:
    """Generate songs and decode them.

    A song depends only on its conditions and its seed, not on the others in the batch. Models that read lyrics before
    the song (`prompt_cross_attention` false) are an exception, since padding counts there: to make such songs
    independent of each other, generate them one at a time.

    Args:
        model: the model; its codec is loaded when first needed.
        on_step: called with the progress: steps done, steps that the longest song allowed would take.
        return_songs: return a `SongAudio`, which also has lengths, codes and the mix.
        **keywords: the processor's output (`encode_conditions`) and the fields of `GenerationOptions`.

    Returns:
        Mixed: B*R x samples. Dual-track: a pair (accompaniment, vocal), each B*R x samples, but 1-D for a single
        song. float32 on the codec's device; songs that end earlier are followed by silence, and
        `return_songs=True` tells how long each one is.

    Raises:
        TypeError: for unknown keywords.
        ValueError: for options out of range, or for a model whose logits are not finite.
    """
    inputs, options = _split(keywords)
    _warn_of_options(model, options)
    with evaluating(model), torch.no_grad():
        conditions = _encode(model, inputs)
        codes = generate_codes(model, conditions, options=options, on_step=on_step)
        songs = decode_songs(model.audio_codec, model.layout, codes)
    return songs if return_songs else songs.published()


def model_stream(
    model: "SongGenForConditionalGeneration",
    *,
    chunk_seconds: float = DEFAULT_CHUNK_SECONDS,
    on_step: ProgressCallback | None = None,
    **keywords: Any,
) -> Iterator[SongAudio]:
    """Yield the sound of songs while they are being generated.

    Used as `for piece in model_stream(model, **processor(...))`. All pieces of a song together are as long as what
    `generate` returns, and hold the same codes.

    Args:
        model: the model.
        chunk_seconds: sound in one piece.
        on_step: called with the progress.
        **keywords: as for `generate`.

    Yields:
        Pieces of all tracks; `piece.lengths` says how many samples of a piece belong to each song.

    Raises:
        TypeError: for unknown keywords.
        ValueError: as `generate` does, when the first piece is requested.
    """
    inputs, options = _split(keywords)
    _warn_of_options(model, options)
    codec = model.audio_codec
    chunk_frames = frames_of_chunk(codec, chunk_seconds)
    with evaluating(model), torch.no_grad():
        conditions = _encode(model, inputs)
    chunks = stream_codes(model, conditions, options=options, chunk_frames=chunk_frames, on_step=on_step)
    yield from stream_audio(codec, model.layout, chunks)


def _split(keywords: dict[str, Any]) -> tuple[dict[str, Any], GenerationOptions]:
    """Separate the model's inputs from the options.

    Raises:
        TypeError: for keywords that are neither.
        ValueError: for options out of range.
    """
    unknown = [name for name in keywords if name not in CONDITION_KEYWORDS and name not in _OPTION_KEYWORDS]
    if unknown:
        raise TypeError(
            f"generate() got unknown keywords {', '.join(unknown)}; inputs: {', '.join(CONDITION_KEYWORDS)}; "
            f"options: {', '.join(_OPTION_KEYWORDS)}, on_step, return_songs"
        )
    options = GenerationOptions(**{name: value for name, value in keywords.items() if name in _OPTION_KEYWORDS})
    return {name: value for name, value in keywords.items() if name in CONDITION_KEYWORDS}, options


def _warn_of_options(model: "SongGenForConditionalGeneration", options: GenerationOptions) -> None:
    """Warn of options that do something else with this model than one may expect."""
    codes = model.vocabulary.codebook_size
    if options.do_sample and options.top_k is not None and options.top_k > codes:
        logger.warning(
            "top_k %d is more than the %d codes of a codebook: all of them can be sampled", options.top_k, codes
        )
    if options.guidance_scale != 1 and not model.config.condition_dropout:
        known = "was trained without" if model.config.condition_dropout == 0 else "is not known to be trained with"
        logger.warning(
            "guidance_scale %g: this model %s condition_dropout, so its songs without conditions, from which guidance "
            "leads away, may be meaningless",
            options.guidance_scale,
            known,
        )


def _encode(model: "SongGenForConditionalGeneration", inputs: dict[str, Any]) -> "Conditions":
    """Encode the inputs on the model's device; a voice of zeros does not count as one."""
    moved = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
        if value is not None
    }
    voice = moved.get("ref_voice_values")
    if voice is not None and "voice_hidden_states" not in moved and not bool(voice.any()):
        del moved["ref_voice_values"]
        moved.pop("ref_voice_lengths", None)
    return model.encode_conditions(**moved)
