"""Frozen networks that turn captions and reference voices into features, and the caption tokenizer."""

from songgen.conditioning.cache import FeatureCache
from songgen.conditioning.caption_encoder import CaptionEncoder
from songgen.conditioning.caption_tokenizer import (
    caption_tokenizer_fingerprint,
    load_caption_tokenizer,
    train_caption_tokenizer,
)
from songgen.conditioning.feature_store import FeatureStore
from songgen.conditioning.text_encoder import TextEncoder, load_text_encoder
from songgen.conditioning.voice_encoder import VoiceEncoder, load_voice_encoder, read_voice_sample_rate

__all__ = [
    "CaptionEncoder",
    "FeatureCache",
    "FeatureStore",
    "TextEncoder",
    "VoiceEncoder",
    "caption_tokenizer_fingerprint",
    "load_caption_tokenizer",
    "load_text_encoder",
    "load_voice_encoder",
    "read_voice_sample_rate",
    "train_caption_tokenizer",
]
