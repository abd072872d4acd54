"""The frozen encoder of the reference voice: MERT-v1 (a HuBERT layout) on the native HuBERT class.

MERT's own class differs from HuBERT only in options that the published 330M weights do not use (constant-Q features,
deepnorm; its "attention relax" leaves the softmax unchanged): such configurations are refused, no remote code is run.

Shapes: B batch, t frames, D width; "layers" counts the hidden states, the embedding's among them (25 when published).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from songgen.conditioning.cache import FeatureCache
from songgen.conditioning.feature_store import read_one
from songgen.conditioning.frozen import FrozenEncoder, seeded
from songgen.conditioning.voice_weights import hubert_config, hubert_tensors
from songgen.runtime.json_files import write_json
from songgen.runtime.pretrained import find_folder, local_folder
from songgen.runtime.tensor_files import PREPROCESSOR_FILE, NetworkFolder, load_strictly, locate, normalize_spec

PUBLISHED_ENCODER = "m-a-p/MERT-v1-330M"
"""Voice encoder of the published models."""

DEFAULT_SAMPLE_RATE = 24_000
"""Rate of the published encoder, in Hz; an encoder whose files do not say theirs is taken for one like it."""

_VARIANCE_FLOOR = 1e-7

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredVoices:
    """Features of reference voices on disk, each computed by itself."""

    files: Mapping[str, Path]
    """Key of a voice -> file with its features; see `songgen.conditioning.feature_store.FeatureStore.find`."""
    dtype: torch.dtype
    """Precision of the features."""
    mix: Callable[[Tensor], Tensor] | None = None
    """Mixture of the layers (1 x layers x t x D to 1 x 1 x t x D) that is stored in their place; None for all
    layers."""


class VoiceEncoder(FrozenEncoder):
    """Reference voice samples to the hidden states of all layers.

    Each clip is brought to zero mean and unit variance first, over its own samples, as the published model's feature
    extractor does (doing so twice changes nothing).
    """

    architecture_keys: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "feat_extract_norm",
        "feat_extract_activation",
        "feat_proj_layer_norm",
        "conv_dim",
        "conv_stride",
        "conv_kernel",
        "conv_bias",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
        "do_stable_layer_norm",
        "layer_norm_eps",
    )

    stored: StoredVoices | None = None
    """Set it to look up the features of voices; only others need the network."""

    def __init__(
        self,
        model: HubertModel,
        *,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        normalize: bool = True,
        spec: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Freeze a HuBERT model that listens at `sample_rate`."""
        super().__init__(model, spec=spec, dtype=dtype)
        self.sample_rate = sample_rate
        self.normalize = normalize

    @classmethod
    def from_state_dict(
        cls,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        preprocessor: Mapping[str, Any] | None = None,
        spec: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> "VoiceEncoder":
        """Build from a MERT or HuBERT configuration and its weights.

        Args:
            config: content of the `config.json`; what it leaves out is inferred from the weights (a published SongGen
                folder holds `mert_model.*` tensors and no configuration for them).
            tensors: weights under HuBERT's names, with either naming of the weight norm.
            preprocessor: content of `preprocessor_config.json` (`sampling_rate`, `do_normalize`).
            spec: what opens the same encoder again.
            dtype: precision to compute in (None: as stored).

        Raises:
            ValueError: for options that HuBERT lacks, or if weights are missing or of other shapes.
        """
        weights = hubert_tensors(tensors)
        complete = hubert_config(config, weights)
        with torch.device("meta"):
            model = HubertModel(complete)
        load_strictly(model, weights, f"the voice encoder {(spec or {}).get('path', '')}".rstrip())
        settings = preprocessor or {}
        sample_rate = _sample_rate(config, settings, str((spec or {}).get("path", "")))
        normalize = bool(settings.get("do_normalize", True))
        return cls(model, sample_rate=sample_rate, normalize=normalize, spec=spec, dtype=dtype)

    @classmethod
    def small(
        cls,
        *,
        hidden_size: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        feat_extract_norm: str = "layer",
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        seed: int = 0,
    ) -> "VoiceEncoder":
        """Return a small encoder with random weights (75 frames a second at 24 kHz): the same for the same arguments.

        `num_layers` transformer layers give `num_layers + 1` hidden states.
        """
        config = HubertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=2 * hidden_size,
            # The first layers run at the highest rate: few channels there save most of the time.
            conv_dim=(8, 8, 8, 16, 32, 32, 32),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=num_heads,
            feat_extract_norm=feat_extract_norm,
            do_stable_layer_norm=True,
            apply_spec_augment=False,
            mask_time_prob=0.0,
        )
        with seeded(seed):
            return cls(HubertModel(config), sample_rate=sample_rate)

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Number of hidden states: the transformer layers and their input."""
        return int(self.config.num_hidden_layers) + 1

    @property
    def min_samples(self) -> int:
        """Samples that the first frame needs."""
        samples = 1
        for kernel, stride in reversed(self._convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        """Kernel and stride of each convolution of the feature extractor."""
        return list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))

    def num_frames(self, samples: Tensor | int) -> Tensor:
        """Return the frames that so many samples give (no padding: 0 for fewer than `min_samples`)."""
        frames = torch.as_tensor(samples)
        for kernel, stride in self._convolutions:
            frames = torch.div(frames - kernel, stride, rounding_mode="floor") + 1
        return frames.clamp(min=0)

    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode reference voices. A clip's features do not depend on the padding after it.

        Args:
            waveforms: B x samples at `sample_rate`; samples past a clip's length are never read.
            lengths: B, samples of each clip (None: whole rows). A clip of length 0, or whose samples are all zero,
                does not count as a voice.

        Returns:
            Hidden states B x layers x t x D on the encoder's device, zeros where the mask is False; and the mask B x t
            bool, True on a clip's own frames and nowhere in a clip without a voice. With a stored mixture of the
            layers, B x 1 x t x D.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        if waveforms.dim() != 2 or (lengths is not None and lengths.shape != waveforms.shape[:1]):
            shape = None if lengths is None else tuple(lengths.shape)
            raise ValueError(f"waveforms must be B x samples and lengths B, got {tuple(waveforms.shape)} and {shape}")
        if lengths is None:
            lengths = torch.full(waveforms.shape[:1], waveforms.shape[1])
        if self.stored is not None:
            return self._look_up(waveforms, lengths, self.stored)
        return self._encode(waveforms, lengths)

    def key_of(self, samples: Tensor) -> str:
        """Return the key of a voice (samples float32 on the CPU) in stores of this encoder's features."""
        return FeatureCache.key(self.fingerprint, samples.numpy().tobytes())

    def is_voice(self, samples: Tensor) -> bool:
        """Return whether samples of one voice have a feature: they are long enough, and not all zero."""
        return bool(samples.any()) and int(self.num_frames(len(samples))) > 0

    def _look_up(self, waveforms: Tensor, lengths: Tensor, stored: StoredVoices) -> tuple[Tensor, Tensor]:
        """Return stored features, as `encode` does; those that are not stored are computed."""
        voices = [row[:length] for row, length in zip(waveforms.cpu(), lengths.tolist(), strict=True)]
        found = [self._features(voice, stored) if self.is_voice(voice) else None for voice in voices]
        frames = int(self.num_frames(max(waveforms.shape[1], self.min_samples)))
        layers = self.num_layers if stored.mix is None else 1
        states = torch.zeros(len(voices), layers, frames, self.hidden_size, dtype=stored.dtype)
        mask = torch.zeros(len(voices), frames, dtype=torch.bool)
        for row, features in enumerate(found):
            if features is not None:
                states[row, :, : features.shape[1]] = features
                mask[row, : features.shape[1]] = True
        return states.to(self.device), mask.to(self.device)

    def _features(self, voice: Tensor, stored: StoredVoices) -> Tensor:
        """Return the features of one voice (layers x t x D), stored or computed."""
        key = self.key_of(voice)
        features = read_one(stored.files[key], key) if key in stored.files else None
        return self.compute_alone(voice, stored) if features is None else features

    def compute_alone(self, voice: Tensor, stored: StoredVoices) -> Tensor:
        """Compute the features of one voice as they are stored: layers x t x D on the CPU."""
        states, mask = self._encode(voice[None], torch.tensor([len(voice)]))
        mixed = states if stored.mix is None else stored.mix(states)
        return mixed[0, :, : int(mask[0].sum())].to("cpu", stored.dtype)

    def _encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `encode` returns."""
        samples = waveforms.to(self.device, torch.float32)
        if samples.shape[1] < self.min_samples:
            samples = torch.nn.functional.pad(samples, (0, self.min_samples - samples.shape[1]))
        lengths = lengths.to(self.device).clamp(0, waveforms.shape[1])
        heard = torch.arange(samples.shape[1], device=self.device) < lengths[:, None]
        samples = samples.masked_fill(~heard, 0.0)
        is_voice = samples.ne(0).any(dim=1)
        states = self._compute(samples, lengths)
        frames = torch.where(is_voice, self.num_frames(lengths), 0)
        mask = torch.arange(states.shape[2], device=self.device) < frames[:, None]
        return states.masked_fill(~mask[:, None, :, None], 0.0), mask

    def _compute(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Return B x layers x t x D; frames past a clip's own are undefined."""
        with self._computing():
            # A clip that is too short has no frame; its row still needs one to attend to, which is masked later.
            lengths = lengths.clamp(min=self.min_samples)
            if self.config.feat_extract_norm != "group":
                heard = (torch.arange(samples.shape[1], device=self.device) < lengths[:, None]).long()
                return self._hidden_states(self._normalized(samples, heard), heard)
            return self._by_equal_lengths(samples, lengths)

    def _by_equal_lengths(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Run clips of equal length together: a group norm over time would include the padding."""
        frames = int(self.num_frames(samples.shape[1]))
        shape = (len(samples), self.num_layers, frames, self.hidden_size)
        states = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero().flatten()
            clips = samples[rows, :length]
            found = self._hidden_states(self._normalized(clips, torch.ones_like(clips)), None)
            states[rows, :, : found.shape[2]] = found
        return states

    def _hidden_states(self, samples: Tensor, heard: Tensor | None) -> Tensor:
        output = self._model(samples.to(self.dtype), attention_mask=heard, output_hidden_states=True)
        # The published states end with the encoder's output, final layer norm included.
        return torch.stack([*output.hidden_states[:-1], output.last_hidden_state], dim=1)

    def _normalized(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Bring each clip to zero mean and unit variance over what is heard of it."""
        if not self.normalize:
            return samples
        count = heard.sum(dim=1, keepdim=True)
        centred = (samples - samples.sum(dim=1, keepdim=True) / count) * heard
        variance = centred.square().sum(dim=1, keepdim=True) / count
        return centred / (variance + _VARIANCE_FLOOR).sqrt()

    def _description(self) -> dict[str, Any]:
        return super()._description() | {"sample_rate": self.sample_rate, "normalize": self.normalize}

    def save(self, folder: str | Path) -> None:
        """Write configuration, weights and `preprocessor_config.json`."""
        super().save(folder)
        settings = {"sampling_rate": self.sample_rate, "do_normalize": self.normalize}
        write_json(Path(folder) / PREPROCESSOR_FILE, settings)


def _sample_rate(config: Mapping[str, Any], preprocessor: Mapping[str, Any], path: str) -> int:
    """Return the rate that a voice encoder's files state, in Hz."""
    stated = preprocessor.get("sampling_rate", config.get("sample_rate"))
    if stated is None and path:
        logger.warning(
            "the voice encoder %s does not state its sample rate: %d Hz is assumed; if it is another one, add a %s "
            'with "sampling_rate"',
            path, DEFAULT_SAMPLE_RATE, PREPROCESSOR_FILE,
        )  # fmt: skip
    return int(stated or DEFAULT_SAMPLE_RATE)


def read_voice_sample_rate(spec: str | Mapping[str, Any], *, base_folder: Path | None = None) -> int:
    """Return the rate in Hz at which a voice encoder listens, from its configuration only: no weights are read.

    Args:
        spec: as for `load_voice_encoder`; without a path, the configuration of an encoder whose weights are in the
            model's own file.
        base_folder: folder of a model; a relative path is one in it.

    Raises:
        ValueError: if the encoder's files cannot be found.
    """
    given = {"path": spec} if isinstance(spec, str) else dict(spec)
    path = given.get("path")
    if not path:
        return _sample_rate(given, {}, "")
    if path == PUBLISHED_ENCODER and local_folder(path, base_folder) is None:
        return DEFAULT_SAMPLE_RATE  # known without asking the hub
    patterns, revision = ["*.json"], given.get("revision")
    source = NetworkFolder(
        find_folder(path, patterns=patterns, base_folder=base_folder, revision=revision, bare=True), False
    )
    return _sample_rate(source.config(), source.preprocessor(), str(path))


def load_voice_encoder(
    spec: str | Mapping[str, Any],
    *,
    base_folder: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> VoiceEncoder:
    """Open a voice encoder.

    Args:
        spec: a hub id, a folder, or `{"path": ..., "revision": ..., "allow_pickle_weights": false}`.
            `m-a-p/MERT-v1-330M` publishes its weights as a pickle only: it needs `"allow_pickle_weights": true`,
            and is then read with `torch.load(weights_only=True)`.
        base_folder: folder of a model; a relative path is one in it.
        device: where it computes.
        dtype: precision to compute in (None: as stored).

    Raises:
        ValueError: if it is not there, or its weights do not fit its configuration.
    """
    normalized = normalize_spec(spec)
    source = locate(normalized, base_folder)
    encoder = VoiceEncoder.from_state_dict(
        source.config(), source.tensors(), preprocessor=source.preprocessor(), spec=normalized, dtype=dtype
    )
    return encoder.to(device)
