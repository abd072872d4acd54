"""EnCodec (https://arxiv.org/abs/2210.13438): the 24 kHz model, and MusicGen's 32 kHz model of the same class."""

from typing import Any, Self

from torch import Tensor
from transformers import EncodecModel

from songgen.codecs.network import NetworkCodec, checked_bandwidth, network_spec, open_network

DEFAULT_BANDWIDTH = 6.0
"""kbit/s, if the network offers it: 8 codebooks of the 24 kHz model, whose highest bandwidth (24) would mean 32."""


class EncodecCodec(NetworkCodec):
    """A mono EnCodec. A clip is encoded in one piece even if config.json asks for overlapping chunks."""

    kind = "encodec"
    model: EncodecModel

    def __init__(self, model: EncodecModel, spec: dict[str, Any], bandwidth: float) -> None:
        super().__init__(model, spec)
        self.bandwidth = bandwidth
        self.sample_rate = model.config.sampling_rate
        self.hop_length = model.config.hop_length
        self.codebook_size = model.config.codebook_size
        self.num_codebooks = model.quantizer.get_num_quantizers_for_bandwidth(bandwidth)

    @classmethod
    def load(cls, path: str, revision: str | None, settings: dict[str, Any]) -> Self:
        """Open a folder or hub id; `settings` may contain `bandwidth` (default: `DEFAULT_BANDWIDTH` or the highest).

        Raises:
            ValueError: if it cannot be opened, lacks the bandwidth, is a stereo model, or stores loudness separately.
        """
        model = open_network(EncodecModel, path, revision)
        problems = []
        if model.config.audio_channels != 1:
            problems.append(f"it encodes {model.config.audio_channels} channels, and songs are mono here")
        if model.config.normalize:
            problems.append("it stores a loudness next to the tokens (normalize), which a token model cannot generate")
        if problems:
            raise ValueError(
                f"The EnCodec model {path!r} cannot be used: {' and '.join(problems)}. Use facebook/encodec_24khz, "
                "facebook/encodec_32khz or another mono model."
            )
        # Overlapping chunks would give more frames than num_samples / hop_length, and other tokens at every seam.
        model.config.chunk_length_s = None
        choices = model.config.target_bandwidths
        default = DEFAULT_BANDWIDTH if DEFAULT_BANDWIDTH in choices else max(choices)
        bandwidth = checked_bandwidth(settings.get("bandwidth"), choices, default, path)
        return cls(model, network_spec(cls.kind, path, model, revision, bandwidth=bandwidth), bandwidth)

    def _encode_equal(self, clips: Tensor) -> Tensor:
        # Returns chunks x batch x codebooks x frames; without chunk_length_s a single chunk contains the whole clip.
        return self.model.encode(clips, bandwidth=self.bandwidth, return_dict=False)[0][0]

    def _decode_equal(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes.unsqueeze(0), [None], return_dict=False)[0]

    def _token_settings(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "sample_rate": self.sample_rate,
            "upsampling_ratios": list(config.upsampling_ratios),
            "use_causal_conv": config.use_causal_conv,
            "pad_mode": config.pad_mode,
            "dilation_growth_rate": config.dilation_growth_rate,
            "num_codebooks": self.num_codebooks,
        }
