"""The pipeline's autoencoder: songs of any length to latents and back, in windows, so that memory does not grow.

Shapes: N samples, T frames, C channels of a latent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.codecs.base import exact_float32, fingerprint
from songgen.data.schema import LATENTS
from songgen.families.encoding import Encoders, TargetEncoder
from songgen.families.flow.pipeline import AUTOENCODER, TOKENIZER, find_pipeline, open_component
from songgen.families.flow.prompts import PipelinePrompts
from songgen.runtime.pretrained import local_folder
from songgen.tasks import MIX

WINDOW_FRAMES = 256
"""Frames that the networks see at once: 10 s at 25 frames a second, where encoding at the published width needs 1.2 to
1.9 GB on a CPU. The overlap is 6 % of this length."""

_UNIT_REACH = 3 * (1 + 3 + 9)
_INPUT_REACH, _LATENT_REACH = 3, 1
"""Samples on each side that a block's three dilated convolutions, the first and the last convolution of the encoder
see, each in units of its own input; those of the decoder are the same in reverse order, and its last one sees as many
samples as the encoder's first one, and its first one as many frames."""

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)

CODE = ("families/flow/autoencoder.py", "families/flow/prompts.py", "data/manifests/music_facts.py")
"""Source files of `songgen` that latents and ids depend on."""


class Window(NamedTuple):
    """Frames that are computed together, and those of them that are kept."""

    start: int
    """First frame that is computed."""
    stop: int
    """End of the frames that are computed."""
    kept: int
    """First frame that is kept."""
    kept_stop: int
    """End of the frames that are kept."""


def windows(num_frames: int, reach: int, length: int = WINDOW_FRAMES) -> Iterator[Window]:
    """Yield windows whose kept frames are all frames, in order.

    Args:
        num_frames: number of frames of the song.
        reach: frames on each side that a frame depends on. They are computed with the kept ones, so that these are
            what they would be in the whole song.
        length: frames of a window, at least.
    """
    step = max(length - 2 * reach, length // 2)
    for kept in range(0, num_frames, step):
        kept_stop = min(kept + step, num_frames)
        # The first window is as long as those in the middle: libraries keep memory for each shape that they meet.
        stop = max(kept_stop + reach, step + 2 * reach)
        yield Window(max(0, kept - reach), min(num_frames, stop), kept, kept_stop)


class LatentAutoencoder(TargetEncoder):
    """Latents of the whole song (the mix), of an `AutoencoderOobleck`."""

    name = "autoencoder"
    target_kind = LATENTS
    tracks = (MIX,)
    is_batched = False

    def __init__(self, network: Any, spec: dict[str, Any] | None = None) -> None:
        """Use an open `diffusers.AutoencoderOobleck`, in float32 and on its device; `spec` says where it is from.

        Raises:
            ValueError: if it is not one of mono or stereo audio.
        """
        self.network = network.eval().requires_grad_(False)
        self.spec = {"type": "oobleck", **(spec or {})}
        config = network.config
        self.sample_rate = int(config.sampling_rate)
        self.hop_length = math.prod(config.downsampling_ratios)
        self.num_channels = int(config.decoder_input_channels)
        self.audio_channels = int(config.audio_channels)
        if self.audio_channels not in (1, 2):
            raise ValueError(f"the autoencoder is one of {self.audio_channels} channels of audio; expected 1 or 2")
        if config.encoder_hidden_size != 2 * self.num_channels:
            raise ValueError(
                f"the encoder of the autoencoder returns {config.encoder_hidden_size} values a frame, and its decoder "
                f"takes {self.num_channels}; expected means and scales of as many latents"
            )
        self.fingerprint = fingerprint("oobleck", _settings(config), network.state_dict())
        ratios = list(config.downsampling_ratios)
        self.encoder_reach = math.ceil(_reach(ratios) / self.hop_length)
        self.decoder_reach = math.ceil(_decoder_reach(ratios))

    @classmethod
    def open(cls, folder: Path, device: torch.device | str = "cpu", *, spec: dict[str, Any] | None = None) -> Self:
        """Open the autoencoder of a pipeline's folder.

        Raises:
            ValueError: if it is missing or damaged.
        """
        return cls(open_component(folder, AUTOENCODER).to(device), spec)

    def encode(self, ids: Sequence[str], clips: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the latents of each clip: C x T float16, a sample of the posterior that follows from the clip's id.

        Raises:
            ValueError: if latents are not finite, or do not fit into 16 bits.
        """
        return [
            _stored(self.sample(self.posterior(clip), seed_of(name))) for name, clip in zip(ids, clips, strict=True)
        ]

    @torch.inference_mode()
    def posterior(self, samples: NDArray[np.float32]) -> Tensor:
        """Encode a song; only one window of it is on the device at a time.

        Args:
            samples: N samples, or 2 x N. An incomplete last frame is filled up with silence.

        Returns:
            Means and scales of the latents, 2 C x T float32, on the CPU.
        """
        samples = samples.reshape(self.audio_channels, -1)
        num_frames = -(-samples.shape[1] // self.hop_length)
        parts = []
        with exact_float32(self.network.device):
            for window in windows(num_frames, self.encoder_reach):
                length = (window.stop - window.start) * self.hop_length
                piece = samples[:, window.start * self.hop_length :][:, :length]
                sound = torch.zeros(1, self.audio_channels, length)
                sound.numpy()[0, :, : piece.shape[1]] = piece
                found = self.network.encode(sound.to(self.network.device)).latent_dist.parameters[0]
                # A copy: a view would keep the overlap in memory.
                parts.append(found[:, window.kept - window.start : window.kept_stop - window.start].cpu().clone())
        return torch.cat(parts, dim=1)

    def sample(self, posterior: Tensor, seed: int) -> Tensor:
        """Sample latents (C x T) from the result of `posterior`; the same seed gives the same latents everywhere."""
        from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution

        generator = torch.Generator().manual_seed(seed)
        sample: Tensor = OobleckDiagonalGaussianDistribution(posterior[None]).sample(generator)[0]
        return sample

    @torch.inference_mode()
    def decode(self, latents: NDArray[Any]) -> NDArray[np.float32]:
        """Decode latents (C x T) to audio, channels x N; only one window is on the device at a time."""
        num_frames = latents.shape[1]
        audio = np.zeros((self.audio_channels, num_frames * self.hop_length), dtype=np.float32)
        found = 0
        with exact_float32(self.network.device):
            for window in windows(num_frames, self.decoder_reach):
                piece = torch.from_numpy(latents[:, window.start : window.stop].astype(np.float32))
                sound = self.network.decode(piece[None].to(self.network.device)).sample[0]
                begin, end = ((at - window.start) * self.hop_length for at in (window.kept, window.kept_stop))
                kept = sound[:, begin:end].cpu().numpy()
                start = window.kept * self.hop_length
                # Ratios that are odd shorten the last frame.
                found = start + kept.shape[1]
                audio[:, start:found] = kept
        return audio[:, :found]


def seed_of(name: str) -> int:
    """Return the seed (63 bits) of a clip's latents."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def open_encoders(name: str, revision: str, device: Any) -> Encoders:
    """Open the encoders of a pipeline: its autoencoder, and prompts with its tokenizer.

    Args:
        name: diffusers folder, or hub id; of the latter only these parts are downloaded.
        revision: branch, tag or commit of a hub repository.
        device: device of the autoencoder.

    Raises:
        ValueError: if it is not such a pipeline, or damaged.
    """
    folder = find_pipeline(name, revision=revision, parts=(AUTOENCODER, TOKENIZER))
    # The folder of a model may move, and each model of this kind has its autoencoder: the fingerprint tells them apart.
    spec = {} if local_folder(name) else {"path": name, "revision": revision}
    return Encoders(
        LatentAutoencoder.open(folder, device, spec=spec),
        PipelinePrompts(open_component(folder, TOKENIZER)),
        code=CODE,
    )


def _settings(config: Any) -> dict[str, Any]:
    """Return the settings of an autoencoder that change latents."""
    names = ("sampling_rate", "downsampling_ratios", "channel_multiples", "audio_channels", "decoder_input_channels")
    return {name: config[name] for name in names}


def _reach(ratios: Sequence[int]) -> int:
    """Return how many samples before and after its own a frame depends on."""
    reach, stride = _INPUT_REACH, 1
    for ratio in ratios:
        # The convolution that shortens by `ratio` has twice that width, half of it beyond the samples of its output.
        reach += (_UNIT_REACH + ratio) * stride
        stride *= ratio
    return reach + _LATENT_REACH * stride


def _decoder_reach(ratios: Sequence[int]) -> float:
    """Return how many frames before and after its own a sample depends on."""
    reach, rate = float(_INPUT_REACH), 1
    for ratio in reversed(ratios):
        reach += 1 / rate
        rate *= ratio
        reach += _UNIT_REACH / rate
    return reach + _INPUT_REACH / rate


def _stored(latents: Tensor) -> NDArray[np.float16]:
    """Return latents in 16 bits.

    Raises:
        ValueError: if they are not finite, or too large.
    """
    largest = float(latents.abs().max())
    if not largest <= _LARGEST_FLOAT16:  # also NaN
        raise ValueError(f"its latents reach {largest:g}, and {_LARGEST_FLOAT16:g} can be stored")
    return latents.numpy().astype(np.float16)
