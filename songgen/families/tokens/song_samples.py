"""Songs sampled during training from the texts and voices of held-out clips, logged next to the originals."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.data.collate import Batch, collate
from songgen.families.objective import AudioSink, SongRequest
from songgen.generation.decoding import CHECK_EVERY_STEPS, ProgressCallback, generate_codes
from songgen.generation.options import GenerationOptions
from songgen.generation.song_audio import SongAudio, decode_songs
from songgen.metrics import load_metric
from songgen.models.modeling_songgen import CONDITION_KEYWORDS, SongGenForConditionalGeneration
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.commands import Interrupted
from songgen.tasks import MIX


@dataclass(frozen=True)
class SongSamples:
    """Sampler of the requested songs: each process samples its share, the main one decodes and compares them."""

    core: SongGenForConditionalGeneration
    """Model without wrappers."""
    options: GenerationOptions
    """Options for sampling."""
    request: SongRequest
    """Songs to sample."""

    def generate(self) -> dict[str, float]:
        """Sample songs, send the audio to the sink and compare it with the originals. Every process must call this.

        The originals are the held-out clips after a round trip through the codec; songs of random texts have none.

        Returns:
            `mel_distance` to the originals, if there are any, and `generated_seconds`: means over the songs, on the
            main process only.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        request = self.request
        own = range(request.rank, request.num_songs, request.world_size)
        sampled: list[tuple[int, Any]] = []
        with request.whole_weights(), torch.no_grad(), suppress(Interrupted):
            sampled.extend((index, self._sample(self._batch(index)).tolist()) for index in own)
        # A stop interrupts each process by itself, at different places; this is where they agree on it.
        if request.inbox.stop_requested_anywhere():
            raise Interrupted
        songs = {index: torch.tensor(codes) for share in gather_lists(sampled) for index, codes in share}
        metrics = self._compare(songs) if request.rank == 0 else {}
        self.core.release("audio_codec")
        self.core.unload_again()
        return metrics

    def _compare(self, songs: dict[int, Tensor]) -> dict[str, float]:
        """Decode the songs (codes by index), log them, and measure them against the originals."""
        core, request, count = self.core, self.request, len(songs)
        generated = decode_songs(core.audio_codec, core.layout, [songs[index] for index in range(count)])
        seconds = float(generated.lengths.double().mean()) / generated.sampling_rate
        batches = [self._batch(index) for index in range(count)]
        names = [batch.ids[0] for batch in batches]
        _log(request.sink, generated, [f"{name}/generated" for name in names], request.step)
        if request.random_texts:
            return {"generated_seconds": seconds}
        codes = [batch.codes[0, ..., : int(batch.frames[0])] for batch in batches]
        original = decode_songs(core.audio_codec, core.layout, codes)
        if request.with_originals:
            _log(request.sink, original, [f"{name}/original" for name in names], 0)
        distance = load_metric("mel_distance").compute(
            predictions=_mixes(generated), references=_mixes(original), sampling_rate=generated.sampling_rate
        )
        return {"mel_distance": float(distance["mel_distance"]), "generated_seconds": seconds}

    def _batch(self, index: int) -> Batch:
        """Return a micro-batch of one clip."""
        return collate([self.request.sample(index)], self.core.layout.tracks)

    def _sample(self, batch: Batch) -> Tensor:
        """Sample one song's codes (N x K x T on the CPU) from a clip's texts and voice.

        Raises:
            Interrupted: if any process was asked to stop, as far as this one knows.
        """

        def look_up(steps_done: int, steps: int) -> None:
            if steps_done % CHECK_EVERY_STEPS == 0 and self.request.inbox.stop_heard():
                raise Interrupted

        return self.write_song(self.core, batch, self.options, look_up)

    @staticmethod
    @torch.no_grad()
    def write_song(
        core: SongGenForConditionalGeneration,
        batch: Batch,
        options: GenerationOptions,
        on_step: ProgressCallback | None = None,
    ) -> Tensor:
        """Return the codes of one song (N x K x T on the CPU) from the texts and the voice of a clip."""
        inputs = batch.to(core.device).model_inputs()
        given = {name: value for name, value in inputs.items() if name in CONDITION_KEYWORDS}
        conditions = core.encode_conditions(**given)
        return generate_codes(core, conditions, options=options, on_step=on_step)[0].cpu()


def _mixes(songs: SongAudio) -> list[NDArray[np.float32]]:
    """Return the mix of each song."""
    return [mix[:length].cpu().numpy() for mix, length in zip(songs.mix, songs.lengths.tolist(), strict=True)]


def _log(sink: AudioSink, songs: SongAudio, names: list[str], step: int) -> None:
    """Log every track of every song, and the mix if there are several tracks."""
    tracks = dict(songs.tracks)
    if len(tracks) > 1:
        tracks[MIX] = songs.mix
    for track, waveforms in tracks.items():
        for name, waveform, length in zip(names, waveforms, songs.lengths.tolist(), strict=True):
            sink.audio(f"{name}_{track}", waveform[:length].float().cpu().numpy(), songs.sampling_rate, step)
