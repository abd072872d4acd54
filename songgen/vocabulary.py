"""Ids of special tokens: those of the audio vocabulary, behind its codes, and what stands for no words."""

from dataclasses import dataclass

IGNORE_INDEX = -100
"""Label of a position that is no target; loud on purpose, so that an embedding of it fails."""

NUM_RESERVED_IDS = 64
"""Rows kept beyond the codes for special tokens (the published vocabulary is 1024 + 64)."""

LYRICS_START_ID, LYRICS_STOP_ID = 261, 0
"""Around every sequence of lyrics."""

EMPTY_LYRICS_IDS = (LYRICS_START_ID, LYRICS_STOP_ID)
"""Lyrics of no words."""

EMPTY_CAPTION_IDS = (1,)
"""A caption of no words: the text encoder's end token."""

_BOS_OFFSET = 1
_MASK_OFFSET = 6


@dataclass(frozen=True)
class AudioVocabulary:
    """Ids of one codec's vocabulary: codes `0 .. codebook_size - 1`, then special tokens."""

    codebook_size: int = 1024
    """Number of entries in each codebook of the codec."""

    def __post_init__(self) -> None:
        """Refuse a codebook that cannot exist."""
        if self.codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1, got {self.codebook_size}")

    @property
    def eos_token_id(self) -> int:
        """End of a stream; the published model pads with the same id."""
        return self.codebook_size

    @property
    def pad_token_id(self) -> int:
        """Padding of decoder inputs, equal to the end of a stream."""
        return self.codebook_size

    @property
    def bos_token_id(self) -> int:
        """Stands before a stream's first frame."""
        return self.codebook_size + _BOS_OFFSET

    @property
    def mask_token_id(self) -> int:
        """Reserved by the published vocabulary for masked frames."""
        return self.codebook_size + _MASK_OFFSET

    @property
    def size(self) -> int:
        """Rows of an embedding table and of a head."""
        return self.codebook_size + NUM_RESERVED_IDS
