"""X-Codec (https://arxiv.org/abs/2408.17175): acoustic and semantic (HuBERT) features in one residual quantizer."""

from typing import Any, Self

from torch import Tensor
from transformers import XcodecModel

from songgen.codecs.network import NetworkCodec, checked_bandwidth, network_spec, open_network


class XCodec(NetworkCodec):
    """X-Codec. The published music model: 16 kHz, 50 frames per second, 8 codebooks of 1024 entries at 4 kbit/s."""

    kind = "xcodec"
    # HuBERT's mask embedding is used in its own pre-training only, so that a file may lack it.
    unused_weights = ("masked_spec_embed",)
    model: XcodecModel

    def __init__(self, model: XcodecModel, spec: dict[str, Any], bandwidth: float) -> None:
        super().__init__(model, spec)
        self.bandwidth = bandwidth
        self.sample_rate = model.config.sample_rate
        self.hop_length = model.config.hop_length
        self.codebook_size = model.config.codebook_size
        self.num_codebooks = model.quantizer.get_num_quantizers_for_bandwidth(bandwidth)

    @classmethod
    def load(cls, path: str, revision: str | None, settings: dict[str, Any]) -> Self:
        """Open a folder or hub id; `settings` may contain `bandwidth` (default: the highest).

        Raises:
            ValueError: if it cannot be opened or lacks the bandwidth.
        """
        model = open_network(XcodecModel, path, revision, cls.unused_weights)
        choices = model.config.target_bandwidths
        bandwidth = checked_bandwidth(settings.get("bandwidth"), choices, max(choices), path)
        return cls(model, network_spec(cls.kind, path, model, revision, bandwidth=bandwidth), bandwidth)

    def _encode_equal(self, clips: Tensor) -> Tensor:
        return self.model.encode(clips, bandwidth=self.bandwidth, return_dict=False)

    def _decode_equal(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes, return_dict=False)

    def _token_settings(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "sample_rate": self.sample_rate,
            "downsampling_ratios": list(config.acoustic_model_config.downsampling_ratios),
            "semantic_conv_stride": list(config.semantic_model_config.conv_stride),
            "block_dilations": list(config.block_dilations),
            "num_codebooks": self.num_codebooks,
        }
