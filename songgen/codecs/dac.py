"""DAC, the Descript Audio Codec (https://arxiv.org/abs/2306.06546), published for 16, 24 and 44.1 kHz."""

from pathlib import Path
from typing import Any, Self

from torch import Tensor
from transformers import DacModel

from songgen.codecs.dac_weights import is_native, open_native
from songgen.codecs.network import NetworkCodec, network_spec, open_network


class DacCodec(NetworkCodec):
    """The Descript Audio Codec with all of its codebooks, or only the first `num_codebooks`."""

    kind = "dac"
    model: DacModel

    def __init__(self, model: DacModel, spec: dict[str, Any], num_codebooks: int) -> None:
        super().__init__(model, spec)
        self.sample_rate = model.config.sampling_rate
        self.hop_length = model.config.hop_length
        self.codebook_size = model.config.codebook_size
        self.num_codebooks = num_codebooks

    @classmethod
    def load(cls, path: str, revision: str | None, settings: dict[str, Any]) -> Self:
        """Open a folder, a hub id or a weight file of descript-audio-codec.

        Args:
            path: what to open.
            revision: revision of a hub repository.
            settings: may contain `num_codebooks` (default: all).

        Raises:
            ValueError: if it cannot be opened or does not have that many codebooks.
        """
        model = open_native(Path(path)) if is_native(path) else open_network(DacModel, path, revision)
        available = model.config.n_codebooks
        num_codebooks = settings.get("num_codebooks", available)
        if not isinstance(num_codebooks, int) or not 1 <= num_codebooks <= available:
            raise ValueError(
                f"The codec {path!r} has {available} codebooks; num_codebooks must be a whole number from 1 to "
                f"{available}, not {num_codebooks!r}."
            )
        return cls(model, network_spec(cls.kind, path, model, revision, num_codebooks=num_codebooks), num_codebooks)

    def _encode_equal(self, clips: Tensor) -> Tensor:
        return self.model.encode(clips, n_quantizers=self.num_codebooks, return_dict=False)[2]

    def _decode_equal(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes, return_dict=False)[0].unsqueeze(1)

    def _token_settings(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "downsampling_ratios": list(self.model.config.downsampling_ratios),
            "num_codebooks": self.num_codebooks,
        }
