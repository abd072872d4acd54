"""Audio codecs: X-Codec, DAC, EnCodec, and a spectral codec that is fitted on a corpus and needs no download."""

from songgen.codecs.base import AudioCodec
from songgen.codecs.registry import CODEC_KINDS, load_codec

__all__ = ["CODEC_KINDS", "AudioCodec", "load_codec"]
