"""Lyrics: normalization to the words as sung, the BPE tokenizer, and its training."""

from songgen.lyrics.languages import LANGUAGES, is_known_language, language_code, states_language
from songgen.lyrics.normalize import normalize_lyrics
from songgen.lyrics.tokenizer import SECTION_TAGS, VOCABULARY_FILES, VoiceBpeTokenizer
from songgen.lyrics.train import train_lyrics_tokenizer

__all__ = [
    "LANGUAGES",
    "SECTION_TAGS",
    "VOCABULARY_FILES",
    "VoiceBpeTokenizer",
    "is_known_language",
    "language_code",
    "normalize_lyrics",
    "states_language",
    "train_lyrics_tokenizer",
]
