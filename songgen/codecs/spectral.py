"""The spectral codec: log-mel frames through a residual vector quantizer, phase by Griffin-Lim.

It needs no download: `songgen.codecs.spectral_fit` fits it on a corpus, and it is saved as config.json and
model.safetensors. Its default geometry is that of X-Codec: 16 kHz, 50 frames per second, 8 codebooks of 1024.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from songgen.codecs.base import AudioCodec
from songgen.codecs.registry import codec_file
from songgen.codecs.spectral_quantizer import dequantize, quantize
from songgen.codecs.spectral_signal import SpectrumGeometry, griffin_lim, linear_magnitudes, magnitudes
from songgen.runtime.json_files import read_json_object
from songgen.runtime.tensor_files import read_tensors


@dataclass(frozen=True)
class SpectralSettings:
    """Settings of a spectral codec: everything except its codebooks."""

    sample_rate: int = 16_000
    """Samples per second."""
    hop_length: int = 320
    """Samples per frame."""
    window_length: int = 1024
    """Length of the analysis window, in samples."""
    num_mels: int = 80
    """Number of mel bands."""
    num_codebooks: int = 8
    """Tokens per frame."""
    codebook_size: int = 1024
    """Entries in each codebook."""
    floor: float = 5e-4
    """Magnitude (1 for a full-scale sine) below which differences fade: a frame is `log(1 + mel / floor)`."""
    search_width: int = 4
    """Beam width of the quantizer after the first codebook."""
    griffin_lim_iterations: int = 32
    """Iterations of phase estimation in decoding."""
    seed: int = 0
    """Seed of the initial phases in decoding."""

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            ValueError: if any are wrong; the message lists all of them.
        """
        whole = [field.name for field in fields(self) if field.type in (int, "int") and field.name != "seed"]
        values = asdict(self)
        problems = [
            f"{name} must be a whole number above 0, not {values[name]!r}"
            for name in whole
            if not isinstance(values[name], int) or values[name] < 1
        ]
        if not isinstance(self.floor, float) or not self.floor > 0:
            problems.append(f"floor must be a number above 0, not {self.floor!r}")
        if not problems and self.hop_length > self.window_length // 2:
            problems.append(f"hop_length {self.hop_length} must be at most half of window_length {self.window_length}")
        if not problems and self.num_mels > self.window_length // 4:
            problems.append(f"num_mels {self.num_mels} must be at most a quarter of window_length {self.window_length}")
        if problems:
            raise ValueError(f"The settings of the spectral codec are wrong: {'; '.join(problems)}.")

    @property
    def geometry(self) -> SpectrumGeometry:
        """Division of waveforms into frames and mel bands."""
        return SpectrumGeometry(self.sample_rate, self.hop_length, self.window_length, self.num_mels)


class SpectralCodec(AudioCodec):
    """A codec without a neural network. Code 0 of every codebook is the zero vector, so that all zeros are silence.

    Tokens are computed in float64, where rounding does not change which code is nearest: they are the same in every
    batch and on every device that supports float64.
    """

    kind = "spectral"

    def __init__(self, settings: SpectralSettings, codebooks: Tensor, path: str | None = None) -> None:
        """Create a codec from `K x C x M` float32 codebooks; `path` is where it was opened, for its spec.

        Raises:
            ValueError: if the codebooks do not match the settings or are not finite.
        """
        expected = (settings.num_codebooks, settings.codebook_size, settings.num_mels)
        if codebooks.dtype != torch.float32 or tuple(codebooks.shape) != expected or not codebooks.isfinite().all():
            raise ValueError(
                f"The codebooks of a spectral codec of these settings must be {expected} finite float32 numbers; got "
                f"{tuple(codebooks.shape)} of {codebooks.dtype}."
            )
        self.settings = settings
        self.sample_rate = settings.sample_rate
        self.hop_length = settings.hop_length
        self.num_codebooks = settings.num_codebooks
        self.codebook_size = settings.codebook_size
        self._spec: dict[str, Any] = {"type": self.kind, "path": path}
        self._codebooks = codebooks
        self._filters = settings.geometry.mel_filters()

    @classmethod
    def load(cls, path: str, revision: str | None, settings: dict[str, Any]) -> Self:
        """Open a folder or hub id; all settings are in its config.json.

        Raises:
            ValueError: if files are missing or do not match each other.
        """
        config = read_json_object(codec_file(path, "config.json", revision))
        known = {field.name for field in fields(SpectralSettings)}
        given = set(config) - {"model_type"}
        if given != known:
            raise ValueError(
                f"The config.json of the spectral codec {path!r} does not match this version: missing "
                f"{sorted(known - given)}, unknown {sorted(given - known)}. Fit the codec again."
            )
        weights_file = codec_file(path, "model.safetensors", revision)
        weights = read_tensors(weights_file)
        if set(weights) != {"codebooks"}:
            raise ValueError(
                f"The model.safetensors of the spectral codec {path!r} must contain the tensor 'codebooks'."
            )
        codec = cls(SpectralSettings(**{name: config[name] for name in known}), weights["codebooks"], path)
        if revision is not None:
            codec._spec["revision"] = revision
        return codec

    @property
    def device(self) -> torch.device:
        """Device of the codebooks."""
        return self._codebooks.device

    @property
    def spec(self) -> dict[str, Any]:
        """JSON that `load_codec` takes to open the same codec again.

        Raises:
            ValueError: if the codec was fitted but not saved yet.
        """
        if self._spec["path"] is None:
            raise ValueError("A fitted spectral codec has no spec until it is saved: call save(folder).")
        return dict(self._spec)

    def to(self, device: torch.device | str) -> Self:
        """Move the codebooks to a device."""
        self._codebooks = self._codebooks.to(device)
        self._filters = self._filters.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors; for a newly fitted codec, `folder` becomes the path of its spec."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": self.kind, **asdict(self.settings)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({"codebooks": self._codebooks.cpu().contiguous()}, folder / "model.safetensors")
        if self._spec["path"] is None:
            self._spec["path"] = str(folder.resolve())

    def log_mels(self, clips: Tensor) -> Tensor:
        """Convert `G x N` samples to `G x T x M` float64 frames `log(1 + mel / floor)`, which are 0 in silence."""
        mels = magnitudes(clips.to(self.device, torch.float64), self.settings.geometry) @ self._filters
        return torch.log1p(mels / self.settings.floor)

    def quantize(self, frames: Tensor) -> Tensor:
        """Convert `T x M` frames to `T x K` codes."""
        return quantize(frames.double(), self._codebooks.double(), self.settings.search_width)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Convert `... x K` codes to `... x M` float32 frames."""
        return dequantize(codes, self._codebooks)

    def _encode_equal(self, clips: Tensor) -> Tensor:
        frames = self.log_mels(clips[:, 0])  # G x T x M
        codes = self.quantize(frames.flatten(0, 1))
        return codes.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def _decode_equal(self, codes: Tensor) -> Tensor:
        # A sum of codes can be slightly negative, a log-mel frame cannot; expm1 undoes the log1p of `log_mels`.
        frames = self.dequantize(codes.transpose(1, 2)).clamp(min=0.0)
        mels = torch.expm1(frames) * self.settings.floor
        spectra = linear_magnitudes(mels, self._filters.float())
        settings = self.settings
        return griffin_lim(spectra, settings.geometry, settings.griffin_lim_iterations, settings.seed).unsqueeze(1)

    def _token_settings(self) -> dict[str, Any]:
        without = ("griffin_lim_iterations", "seed")  # They change the decoded sound, not the tokens.
        return {name: value for name, value in asdict(self.settings).items() if name not in without}

    def _weights(self) -> Mapping[str, Tensor]:
        return {"codebooks": self._codebooks}
