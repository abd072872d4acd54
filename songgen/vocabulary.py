"""Ids of special tokens: those that follow the codes in the audio vocabulary, and those of empty texts."""

from dataclasses import dataclass

IGNORE_INDEX = -100
"""Label of a position that is not a target; out of every range on purpose, so that embedding it fails."""

NUM_RESERVED_IDS = 64
"""Ids reserved for special tokens after the codes (the published vocabulary has 1024 + 64 ids)."""

LYRICS_START_ID, LYRICS_STOP_ID = 261, 0
"""Ids before and after every sequence of lyrics."""

EMPTY_LYRICS_IDS = (LYRICS_START_ID, LYRICS_STOP_ID)
"""Ids of empty lyrics."""

EMPTY_CAPTION_IDS = (1,)
"""Ids of an empty caption: the end token of the text encoder."""

_BOS_OFFSET = 1
_MASK_OFFSET = 6


@dataclass(frozen=True)
class AudioVocabulary:
    """Vocabulary of a codec: codes `0 .. codebook_size - 1`, then special tokens."""

    codebook_size: int = 1024
    """Entries in each codebook of the codec."""

    def __post_init__(self) -> None:
        """Validate the size."""
        if self.codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1, got {self.codebook_size}")

    @property
    def eos_token_id(self) -> int:
        """Id of the end of a stream; the published model uses it for padding too."""
        return self.codebook_size

    @property
    def pad_token_id(self) -> int:
        """Id of padding in decoder inputs, equal to the end of a stream."""
        return self.codebook_size

    @property
    def bos_token_id(self) -> int:
        """Id of the positions before a stream's first frame."""
        return self.codebook_size + _BOS_OFFSET

    @property
    def mask_token_id(self) -> int:
        """Id that the published vocabulary reserves for masked frames."""
        return self.codebook_size + _MASK_OFFSET

    @property
    def size(self) -> int:
        """Number of ids: rows of an embedding table and of a head."""
        return self.codebook_size + NUM_RESERVED_IDS
