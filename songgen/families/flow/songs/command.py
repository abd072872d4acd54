"""Songs of flow-matching models for `songgen generate`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
    from songgen.families.flow.model import FlowModel

logger = logging.getLogger(__name__)


def _section(text: str) -> tuple[float, float]:
    """Return the section that `START:END` names, in seconds.

    Raises:
        argparse.ArgumentTypeError: if the text has another form.
    """
    start, colon, end = text.partition(":")
    try:
        if colon:
            return float(start), float(end)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not START:END in seconds, such as 12.5:20")


OPTIONS = OptionGroup(
    "flow-matching models",
    (
        SongOption("steps", "steps of generation (default: 8 for turbo models, otherwise 50)", {"type": int}),
        SongOption("shift", "above 1, more of the steps are near the noise (default: 3)", {"type": float}),
        SongOption("bpm", "tempo in beats per minute (default: chosen by the model)", {"type": float}),
        SongOption("key", "key, such as 'A minor' (default: chosen by the model)"),
        SongOption("time_signature", "time signature, such as 4/4 (default: chosen by the model)"),
        SongOption("reference", "audio file whose timbre the song gets; --voice is the same", {"type": Path}),
        SongOption("source", "audio file of a song to repaint or to cover", {"type": Path}),
        SongOption(
            "repaint",
            "section of --source to write again, in seconds; the rest stays as it is",
            {"type": _section, "metavar": "START:END"},
        ),
        SongOption(
            "cover",
            "new song over melody and rhythm of --source; strength of the instruction to cover it, 0 to 1 (default: 1)",
            {"type": float, "nargs": "?", "const": 1.0, "metavar": "STRENGTH"},
        ),
    ),
)


class FlowSongWriter(SongWriter):
    """Songs of a request, written one after the other."""

    num_channels = 2

    def __init__(self, folder: Path, request: GenerationRequest, device: str) -> None:
        """Check the request and read its files; see `songgen.families.use.generating.SongCommand.writer`.

        Raises:
            ValueError: if options are out of range or not possible with the model, or files cannot be used.
        """
        from songgen.families.flow.prompts import require_known_language
        from songgen.families.flow.songs.audio_files import PipelineForm, read_reference, read_source
        from songgen.families.flow.songs.generation import SongAudio
        from songgen.families.flow.songs.options import DEFAULT_SHIFT, Sampling, Section, SongOptions

        require_known_language(request.language)
        special = request.special
        reference, repaint = special.get("reference"), special.get("repaint")
        if request.voice is not None:
            if reference is not None:
                raise ValueError("--voice and --reference are the same for this model: give one of them")
            reference = request.voice
            logger.warning("--voice is a timbre reference for this model: it takes up the sound of the whole recording")
        self.options = SongOptions(
            caption=request.caption,
            lyrics=request.lyrics,
            language=request.language,
            seconds=request.seconds,
            guidance=request.guidance,
            num_songs=request.num_songs,
            seed=request.seed,
            steps=special.get("steps"),
            shift=special.get("shift", DEFAULT_SHIFT),
            bpm=special.get("bpm"),
            key=special.get("key", ""),
            time_signature=special.get("time_signature", ""),
            has_source="source" in special,
            repaint=None if repaint is None else Section(*repaint),
            cover=special.get("cover"),
        )
        form = PipelineForm.read(folder)
        Sampling.of_model(form.is_turbo, guidance=request.guidance)
        if self.options.cover is not None and not form.can_cover:
            raise ValueError(f"{folder} lacks the audio tokenizer that a cover needs (audio_tokenizer)")
        self._audio = SongAudio(
            reference=None if reference is None else read_reference(reference, form.sample_rate),
            source=None if "source" not in special else read_source(special["source"], form.sample_rate),
        )
        if self.options.repaint is not None and self._audio.source is not None:
            self.options.repaint.require_inside(self._audio.source.shape[1] / form.sample_rate)

    def sample_rate(self, core: FlowModel) -> int:
        """See `SongWriter`."""
        from songgen.families.flow.pipeline import AUTOENCODER

        return int(core.part(AUTOENCODER).config.sampling_rate)

    def songs(self, core: FlowModel, on_step: ProgressCallback | None = None) -> Iterator[SongPiece]:
        """See `SongWriter`."""
        from songgen.families.flow.songs.generation import FlowSongs

        writer = FlowSongs(core)
        for song, sound in enumerate(writer.generate(self.options, self._audio, on_step)):
            yield SongPiece(song, {WHOLE_SONG: sound.T.numpy()}, writer.sample_rate)


FLOW_SONGS = SongCommand(OPTIONS, FlowSongWriter)
