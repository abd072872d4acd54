"""Songs generated during training from the texts of held-out clips, logged next to the originals."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from songgen.config import RunConfig
from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import AUTOENCODER
from songgen.families.objective import SongRequest
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.commands import Interrupted
from songgen.tasks import MIX

TURBO_INFERENCE_STEPS, INFERENCE_STEPS = 8, 50


@dataclass(frozen=True)
class SongOptions:
    """Options for generating songs."""

    steps: int
    """Number of steps."""
    guidance_scale: float
    """Scale of guidance; 1 for none."""
    shift: float
    """Shift of the schedule."""
    seed: int
    """Seed of the noise of all songs, so that steps can be compared by ear."""

    @classmethod
    def of(cls, config: RunConfig, core: FlowModel) -> Self:
        """Return the options of a configuration."""
        default = TURBO_INFERENCE_STEPS if core.is_turbo else INFERENCE_STEPS
        return cls(
            steps=config.flow.num_inference_steps or default,
            guidance_scale=config.model.guidance_scale,
            shift=config.flow.shift,
            seed=config.training.seed,
        )


@dataclass(frozen=True)
class FlowSongs:
    """Generator of the requested songs: each process generates its share, the main one logs them."""

    core: FlowModel
    """Model without wrappers."""
    options: SongOptions
    """Options for generating."""
    request: SongRequest
    """Songs to generate."""

    @torch.no_grad()
    def generate(self) -> dict[str, float]:
        """Generate songs, and send the audio to the sink. Every process must call this.

        Returns:
            `generated_seconds`: mean over the songs, on the main process only.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        request = self.request
        own = range(request.rank, request.num_songs, request.world_size)
        songs: list[tuple[str, Any]] = []
        pipeline: Any = self.core.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        rate = pipeline.sample_rate
        with request.whole_weights(), suppress(Interrupted), torch.random.fork_rng():
            for index in own:
                songs += self._songs(pipeline, index)
        # A stop interrupts each process by itself, at different places; this is where they agree on it.
        if request.inbox.stop_requested_anywhere():
            raise Interrupted
        seconds = []
        for name, sound in (song for share in gather_lists(songs) for song in share):
            waveform = np.asarray(sound, dtype=np.float32)
            is_original = name.endswith(f"original_{MIX}")
            request.sink.audio(name, waveform, rate, 0 if is_original else request.step)
            seconds += [] if is_original else [len(waveform) / rate]
        for part in (AUTOENCODER, "text_encoder"):
            self.core.unload(part)
        return {"generated_seconds": sum(seconds) / len(seconds)} if request.rank == 0 and seconds else {}

    def _songs(self, pipeline: Any, index: int) -> list[tuple[str, list[float]]]:
        """Return the generated song of a clip and, if asked for, its original, each with its name.

        Raises:
            Interrupted: if any process was asked to stop, as far as this one knows.
        """
        row = self.request.samples.dataset.row(index)

        def look_up(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if self.request.inbox.stop_heard():
                raise Interrupted
            return {}

        audio = pipeline(
            prompt=row.caption,
            lyrics=row.lyrics,
            vocal_language=row.language,
            audio_duration=row.duration,
            num_inference_steps=self.options.steps,
            guidance_scale=self.options.guidance_scale,
            shift=self.options.shift,
            generator=torch.Generator().manual_seed(self.options.seed),
            callback_on_step_end=look_up,
        ).audios[0]
        found = [(f"{row.id}/generated_{MIX}", _mono(audio))]
        if self.request.with_originals:
            autoencoder = pipeline.vae
            latents = torch.from_numpy(row.targets[MIX].astype(np.float32)).to(autoencoder.device, autoencoder.dtype)
            found.append((f"{row.id}/original_{MIX}", _mono(autoencoder.decode(latents[None]).sample[0])))
        return found


def _mono(audio: torch.Tensor) -> list[float]:
    """Return the mean of the channels."""
    waveform: NDArray[np.float32] = audio.float().mean(dim=0).cpu().numpy()
    return waveform.tolist()
