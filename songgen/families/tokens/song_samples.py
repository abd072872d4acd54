"""Songs generated during training: from held-out clips' texts and voices, logged beside their originals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.data.collate import Batch, collate
from songgen.data.samples import TrainingSamples
from songgen.generation.decoding import CHECK_EVERY_STEPS, generate_codes
from songgen.generation.options import GenerationOptions
from songgen.generation.song_audio import SongAudio, decode_songs
from songgen.metrics import load_metric
from songgen.models.modeling_songgen import CONDITION_KEYWORDS, SongGenForConditionalGeneration
from songgen.runtime.agreement import gather_lists
from songgen.runtime.commands import Inbox, Interrupted
from songgen.train.reporting.reporter import Reporter

MIX = "mix"


@dataclass
class SongSamples:
    """Generates the same few songs each time: each process draws its share, the main one decodes and compares."""

    samples: TrainingSamples
    """Held-out clips, deterministic."""
    target_tracks: tuple[str, ...]
    """Tracks that the model writes."""
    options: GenerationOptions
    """How songs are drawn; the seed is that of the run, so that two steps can be compared by ear."""
    num_songs: int
    """Songs of all processes together; fewer where there are fewer clips."""
    interval: int | None
    """Steps between two times that songs are generated; None: at every evaluation."""
    last_step: int
    """Final step of the run, at which songs are always generated."""
    rank: int
    """Of this process."""
    world_size: int
    """Processes."""
    whole_weights: Callable[[], AbstractContextManager[None]]
    """Makes sharded weights whole for a while."""
    latest_step: int = 0
    """Step at which songs were last generated."""
    originals_logged: bool = False
    """Whether the originals are logged already, by this process or by the run that it goes on with."""

    def due(self, step: int) -> bool:
        """Whether songs are to be generated at the evaluation after `step` steps."""
        if self.interval is None or step >= self.last_step:
            return True
        return step // self.interval > self.latest_step // self.interval

    def generate(
        self, core: SongGenForConditionalGeneration, step: int, reporter: Reporter, inbox: Inbox
    ) -> dict[str, float]:
        """Generate, hand the sound to the reporter and compare it with the originals. Every process takes part.

        The originals are the held-out clips after a round trip through the codec; they are logged once.

        Returns:
            `mel_distance` to the originals and `generated_seconds`, means over the songs; on the main process only.

        Raises:
            Interrupted: any process was asked to stop; all of them raise it together.
        """
        count = min(self.num_songs, len(self.samples))
        own = range(self.rank, count, self.world_size)
        drawn: list[tuple[int, Any]] = []
        with self.whole_weights(), torch.no_grad(), suppress(Interrupted):
            drawn.extend((index, self._draw(core, self._batch(index), inbox).tolist()) for index in own)
        if inbox.stop_requested_anywhere():
            raise Interrupted
        self.latest_step = step
        songs = {index: torch.tensor(codes) for share in gather_lists(drawn) for index, codes in share}
        metrics = self._compare(core, step, reporter, songs) if self.rank == 0 else {}
        core.release("audio_codec")
        return metrics

    def _compare(
        self, core: SongGenForConditionalGeneration, step: int, reporter: Reporter, songs: dict[int, Tensor]
    ) -> dict[str, float]:
        """Decode the songs (codes by index), log them, and measure them against the originals."""
        count = len(songs)
        generated = decode_songs(core.audio_codec, core.layout, [songs[index] for index in range(count)])
        batches = [self._batch(index) for index in range(count)]
        codes = [batch.codes[0, ..., : int(batch.frames[0])] for batch in batches]
        original = decode_songs(core.audio_codec, core.layout, codes)
        names = [batch.ids[0] for batch in batches]
        _log(reporter, generated, [f"{name}/generated" for name in names], step)
        if not self.originals_logged:
            _log(reporter, original, [f"{name}/original" for name in names], 0)
            self.originals_logged = True
        distance = load_metric("mel_distance").compute(
            predictions=_mixes(generated), references=_mixes(original), sampling_rate=generated.sampling_rate
        )
        seconds = float(generated.lengths.double().mean()) / generated.sampling_rate
        return {"mel_distance": float(distance["mel_distance"]), "generated_seconds": seconds}

    def _batch(self, index: int) -> Batch:
        """One clip."""
        return collate([self.samples[0, index]], self.target_tracks)

    def _draw(self, core: SongGenForConditionalGeneration, batch: Batch, inbox: Inbox) -> Tensor:
        """Draw one song's codes (N x K x T on the CPU) from a clip's texts and voice.

        Raises:
            Interrupted: any process was asked to stop, as far as this one knows.
        """

        def look_up(steps_done: int, steps: int) -> None:
            if steps_done % CHECK_EVERY_STEPS == 0 and inbox.stop_heard():
                raise Interrupted

        inputs = batch.to(core.device).model_inputs()
        given = {name: value for name, value in inputs.items() if name in CONDITION_KEYWORDS}
        conditions = core.encode_conditions(**given)
        return generate_codes(core, conditions, options=self.options, on_step=look_up)[0].cpu()


def _mixes(songs: SongAudio) -> list[NDArray[np.float32]]:
    """Sound of each song, all tracks together."""
    return [mix[:length].cpu().numpy() for mix, length in zip(songs.mix, songs.lengths.tolist(), strict=True)]


def _log(reporter: Reporter, songs: SongAudio, names: list[str], step: int) -> None:
    """Log every track of every song, and their sum where there are several."""
    tracks = dict(songs.tracks)
    if len(tracks) > 1:
        tracks[MIX] = songs.mix
    for track, waveforms in tracks.items():
        for name, waveform, length in zip(names, waveforms, songs.lengths.tolist(), strict=True):
            reporter.audio(f"{name}_{track}", waveform[:length].float().cpu().numpy(), songs.sampling_rate, step)
