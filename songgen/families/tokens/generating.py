"""Songs of token models for `songgen generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.families.use.generating import (
    WHOLE_SONG,
    GenerationRequest,
    OptionGroup,
    ProgressCallback,
    SongCommand,
    SongOption,
    SongPiece,
    SongWriter,
)

if TYPE_CHECKING:
    from songgen.generation.song_audio import SongAudio
    from songgen.models import SongGenForConditionalGeneration

_SWITCH = {"action": "store_true", "default": None}

OPTIONS = OptionGroup(
    "models of codec tokens",
    (
        SongOption("voice_start", "start of the 3 s of --voice to use, in seconds (default: 0)", {"type": float}),
        SongOption("separate", "remove the accompaniment from the file of --voice first (Demucs)", _SWITCH),
        SongOption("greedy", "greedy decoding instead of sampling", _SWITCH),
        SongOption("temperature", "below 1 is more conservative (default: 1)", {"type": float}),
        SongOption("top_k", "sample from the most likely codes only (0: from all; default: 50)", {"type": int}),
        SongOption(
            "top_p", "sample from the most likely codes with this total probability (default: 1)", {"type": float}
        ),
        SongOption(
            "stream",
            "write the files while the song is generated",
            _SWITCH,
            reason="others write all parts of a song at the same time",
        ),
        SongOption("lyrics_vocab", "lyrics vocabulary file, if the model folder holds none", {"type": Path}),
        SongOption("caption_tokenizer", "caption tokenizer, folder or hub id, instead of the model's"),
    ),
)


class TokenSongs(SongWriter):
    """Songs of a request, sampled side by side."""

    def __init__(self, folder: Path, request: GenerationRequest, device: str) -> None:
        """Check the request and read its files; see `songgen.families.use.generating.SongCommand.writer`.

        Raises:
            ValueError: if options are out of range, or files cannot be used.
        """
        from songgen.generation.options import DEFAULT_MAX_SECONDS, DEFAULT_TOP_K, GenerationOptions
        from songgen.generation.processing_songgen import SongGenProcessor

        special = request.special
        self.has_pieces = bool(special.get("stream"))
        options = GenerationOptions(
            do_sample=not special.get("greedy"),
            temperature=special.get("temperature", 1.0),
            top_k=special.get("top_k", DEFAULT_TOP_K),
            top_p=special.get("top_p", 1.0),
            guidance_scale=1.0 if request.guidance is None else request.guidance,
            max_seconds=DEFAULT_MAX_SECONDS if request.seconds is None else request.seconds,
            num_return_sequences=request.num_songs,
            seed=request.seed,
        )
        if special.get("separate") and request.voice is None:
            raise ValueError("--separate works on a reference voice: give --voice, or leave it out")
        processor = SongGenProcessor(
            folder,
            device,
            lyrics_vocab=special.get("lyrics_vocab"),
            caption_tokenizer=special.get("caption_tokenizer"),
        )
        inputs = processor(
            text=request.caption or None,
            lyrics=request.lyrics or None,
            ref_voice_path=request.voice,
            start=special.get("voice_start", 0.0),
            separate=bool(special.get("separate")),
            language=request.language,
        )
        self._keywords: dict[str, Any] = {**inputs, **vars(options)}

    def sample_rate(self, core: SongGenForConditionalGeneration) -> int:
        """See `SongWriter`."""
        return core.config.sampling_rate

    def songs(
        self, core: SongGenForConditionalGeneration, on_step: ProgressCallback | None = None
    ) -> Iterator[SongPiece]:
        """See `SongWriter`."""
        from songgen.generation.pipeline import generate, model_stream

        if self.has_pieces:
            for piece in model_stream(core, on_step=on_step, **self._keywords):
                yield from pieces_of(piece)
        else:
            yield from pieces_of(generate(core, on_step=on_step, return_songs=True, **self._keywords))  # type: ignore[arg-type]


def pieces_of(audio: SongAudio) -> Iterator[SongPiece]:
    """Yield the sound of each song: the mix and, if there are several, each track, cut to the song's length."""
    sounds = {WHOLE_SONG: audio.mix, **(audio.tracks if len(audio.tracks) > 1 else {})}
    for song, length in enumerate(audio.lengths.tolist()):
        cut = {label: waveforms[song, :length].cpu().numpy() for label, waveforms in sounds.items()}
        yield SongPiece(song, cut, audio.sampling_rate)


TOKEN_SONGS = SongCommand(OPTIONS, TokenSongs)
