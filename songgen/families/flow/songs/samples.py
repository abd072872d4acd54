"""Songs generated during training from the texts of held-out clips, logged next to the originals.

Shapes: N samples, T frames, C channels of a latent, L tokens.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.config import RunConfig
from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import COVER_PARTS, TEXT_ENCODER
from songgen.families.flow.songs.generation import FlowSongs, full_level
from songgen.families.flow.songs.options import Sampling
from songgen.families.objective import SongRequest
from songgen.metrics import load_metric
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.commands import Interrupted
from songgen.tasks import MIX


def sampling_of(config: RunConfig, core: FlowModel) -> Sampling:
    """Return how the songs of evaluations are written."""
    return Sampling.of_model(
        core.is_turbo,
        steps=config.flow.num_inference_steps,
        guidance=config.model.guidance_scale,
        shift=config.flow.shift,
    )


@torch.no_grad()
def sample_songs(core: FlowModel, request: SongRequest, sampling: Sampling) -> dict[str, float]:
    """Generate songs, send the audio to the sink and compare it with the originals. Every process must call this.

    Each process generates its share, and the main one decodes. A song has the length of the clip that its caption is
    of, since the caption states it; its noise depends on the clip and the run's seed alone, so that evaluations can be
    compared by ear. The timbre reference is silence.

    Args:
        core: model without wrappers, in evaluation mode.
        request: songs to generate.
        sampling: steps, guidance and shift.

    Returns:
        On the main process: `generated_level_db`, the loudness of the songs before they are scaled to full level (root
        mean square, dB). With originals to compare also `mel_distance`, and `latent_distance`: the root mean square of
        the difference in latents, as a share of that of the originals.

    Raises:
        Interrupted: if any process was asked to stop; all of them raise it together.
    """
    own = range(request.rank, request.num_songs, request.world_size)
    sampled: list[tuple[int, str]] = []
    with ExitStack() as stack:
        stack.enter_context(core.parts_released())
        songs = FlowSongs(core, leave_out=(TEXT_ENCODER, *COVER_PARTS))
        with request.whole_weights(), suppress(Interrupted):
            sampled.extend((index, _packed(_latents(songs, request, index, sampling))) for index in own)
        # A stop interrupts each process by itself, at different places; this is where they agree on it.
        if request.inbox.stop_requested_anywhere():
            raise Interrupted
        gathered = {index: text for share in gather_lists(sampled) for index, text in share}
        if request.rank != 0:
            return {}
        compared = [
            _compare(songs, request, index, _unpacked(gathered[index], core.num_channels))
            for index in range(request.num_songs)
        ]
    return _metrics(compared, songs.sample_rate)


@dataclass(frozen=True)
class _Compared:
    """A generated song, and the clip that it is compared with."""

    generated: NDArray[np.float32]
    """Mean of the channels, at full level."""
    level_db: float
    """Loudness of the song as it was decoded."""
    original: NDArray[np.float32] | None = None
    """Likewise of the clip; None for a song of other texts."""
    latent_distance: float = 0.0
    """Root mean square of the difference in latents, as a share of that of the clip."""


def _metrics(compared: list[_Compared], sample_rate: int) -> dict[str, float]:
    """Return the means over the songs."""
    metrics = {"generated_level_db": float(np.mean([song.level_db for song in compared]))}
    originals = [song.original for song in compared if song.original is not None]
    if len(originals) == len(compared):
        distance = load_metric("mel_distance").compute(
            predictions=[song.generated for song in compared], references=originals, sampling_rate=sample_rate
        )
        metrics["mel_distance"] = float(distance["mel_distance"])
        metrics["latent_distance"] = float(np.mean([song.latent_distance for song in compared]))
    return metrics


def _latents(songs: FlowSongs, request: SongRequest, index: int, sampling: Sampling) -> Tensor:
    """Generate the latents of a song, T x C.

    Raises:
        Interrupted: if any process was asked to stop, as far as this one knows.
    """
    sample, core = request.sample(index), songs.core

    def look_up(steps_done: int) -> None:
        if request.inbox.stop_heard():
            raise Interrupted

    def encoded(*arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features of the stored ids, those of training; see `AceStepPipeline.encode_prompt`."""
        found: list[Tensor] = []
        for ids, look in ((sample.caption_ids, core.texts.captions), (sample.lyrics_ids, core.texts.lyrics)):
            tokens = torch.from_numpy(ids.astype(np.int64))[None]
            mask = torch.ones_like(tokens, dtype=torch.bool).to(core.device)
            found += [look(tokens.to(core.device), mask, core.device).to(core.dtype), mask]
        return found[0], found[1], found[2], found[3]

    songs.pipeline.encode_prompt = encoded
    caption, _ = request.text_clips(index)
    # Half a frame less, since the pipeline rounds up: a product of floats may be a little above the number of frames.
    seconds = (request.samples[0, caption].num_frames - 0.5) / songs.frame_rate
    return songs.latents(sample.random_seed, sampling, look_up, prompt="", audio_duration=seconds)


def _compare(songs: FlowSongs, request: SongRequest, index: int, latents: Tensor) -> _Compared:
    """Decode a song, send it to the sink, and compare it with its clip."""
    sample, rate = request.sample(index), songs.sample_rate
    sound = songs.sound(latents)
    level_db = 10 * float(torch.log10(sound.square().mean().clamp_min(1e-12)))
    generated = full_level(sound).numpy()
    request.sink.audio(f"{sample.id}/generated_{MIX}", generated, rate, request.step)
    if request.random_texts:
        return _Compared(generated.mean(axis=0), level_db)
    target = torch.from_numpy(sample.targets[MIX].astype(np.float32).T)
    original = full_level(songs.sound(target)).numpy()
    if request.with_originals:
        request.sink.audio(f"{sample.id}/original_{MIX}", original, rate, 0)
    distance = float((latents - target).square().mean().sqrt() / target.square().mean().sqrt().clamp_min(1e-6))
    return _Compared(generated.mean(axis=0), level_db, original.mean(axis=0), distance)


def _packed(latents: Tensor) -> str:
    """Return latents (T x C) as a text to exchange; as a list of numbers they would be four times longer."""
    return base64.b64encode(latents.float().cpu().contiguous().numpy().tobytes()).decode()


def _unpacked(text: str, channels: int) -> Tensor:
    """Return the latents (T x C) of a text."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).reshape(-1, channels).copy())
