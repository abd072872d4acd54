"""Lyrics tokenizer: BPE over normalized text that begins with a language tag.

Files are `tokenizers` JSON files of the published kind (model BPE, pre-tokenizer Whitespace, no normalizer). The
published file itself is not shipped; `songgen.lyrics.train` makes one of the same kind.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from songgen.lyrics.languages import language_code
from songgen.lyrics.normalize import NORMALIZATION_VERSION, normalize_lyrics
from songgen.runtime.file_hashes import checked
from songgen.runtime.pretrained import find_file
from songgen.vocabulary import LYRICS_START_ID, LYRICS_STOP_ID

STOP_TOKEN, UNKNOWN_TOKEN, SPACE_TOKEN, START_TOKEN = "[STOP]", "[UNK]", "[SPACE]", "[START]"
SPECIAL_TOKEN_IDS = {STOP_TOKEN: LYRICS_STOP_ID, UNKNOWN_TOKEN: 1, SPACE_TOKEN: 2, START_TOKEN: LYRICS_START_ID}
"""Ids that the published model was trained with; a file with other ids for these tokens is refused."""

FILE_NAME = "lyrics_tokenizer.json"
VOCABULARY_FILES = (FILE_NAME, "vocab.json")
"""Names of a vocabulary file in a folder, in the order in which they are tried."""


SECTION_TAGS = tuple(
    f"[{section}]"
    for section in (
        "verse",
        "chorus",
        "bridge",
        "intro",
        "outro",
        "pre-chorus",
        "post-chorus",
        "instrumental",
        "interlude",
        "hook",
        "refrain",
        "solo",
        "break",
        "drop",
        "build",
        "rap",
        "spoken",
        "end",
    )
)
"""Section tags that are single tokens in a vocabulary trained by `songgen.lyrics.train`."""

_NUMBERED_TAG = re.compile(r"\[([a-z-]+)[ :][^\[\]]*\]")


def language_tag(language: str) -> str:
    """Return the tag that precedes a text of a language (code or English name); for Chinese it is `[zh-cn]`."""
    code = language_code(language)
    return "[zh-cn]" if code == "zh" else f"[{code}]"


class VoiceBpeTokenizer:
    """Tokenizer of lyrics, with the published interface."""

    def __init__(self, vocab_file: str | Path | None = None) -> None:
        """Open a `tokenizers` JSON file.

        Raises:
            ValueError: if no file is given, if it cannot be read, if it has changed since it was written, or if it is
                not of the published kind.
        """
        if vocab_file is None:
            raise ValueError(
                "VoiceBpeTokenizer needs a vocabulary file: VoiceBpeTokenizer('vocab.json'), "
                "VoiceBpeTokenizer.from_pretrained(model_folder), or train one with `songgen tokenizer`"
            )
        try:
            serialized = checked(Path(vocab_file)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the lyrics tokenizer {vocab_file}: {error}") from error
        self._setup(serialized, str(vocab_file))

    @classmethod
    def from_string(cls, serialized: str, source: str = "a string") -> "VoiceBpeTokenizer":
        """Create a tokenizer from the content of a `tokenizers` JSON file; `source` is its name in messages."""
        tokenizer = cls.__new__(cls)
        tokenizer._setup(serialized, source)
        return tokenizer

    def _setup(self, serialized: str, source: str) -> None:
        try:
            self.tokenizer: Any = Tokenizer.from_str(serialized)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"{source} is not a tokenizers file: {error}") from error
        found = {token: self.tokenizer.token_to_id(token) for token in SPECIAL_TOKEN_IDS}
        if found != SPECIAL_TOKEN_IDS:
            raise ValueError(
                f"{source} is not a lyrics vocabulary: its special ids are {found}, not {SPECIAL_TOKEN_IDS}"
            )
        self._section_tags = {tag for tag in SECTION_TAGS if self.tokenizer.token_to_id(tag) is not None}

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path, revision: str | None = None) -> "VoiceBpeTokenizer":
        """Open `lyrics_tokenizer.json` or `vocab.json` of a folder or of a hub repository.

        Raises:
            ValueError: if neither file is there.
        """
        if Path(folder_or_id).is_file():
            return cls(folder_or_id)
        return cls(find_file(folder_or_id, VOCABULARY_FILES, revision=revision))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `lyrics_tokenizer.json` to a folder, created if it is missing, and return the file's path."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_string(), encoding="utf-8")
        return path

    def to_string(self) -> str:
        """Return the content of a vocabulary file."""
        return str(self.tokenizer.to_str(pretty=True))

    @property
    def unknown_token_id(self) -> int:
        """Id of pieces that are not in the vocabulary."""
        return SPECIAL_TOKEN_IDS[UNKNOWN_TOKEN]

    @property
    def vocab_size(self) -> int:
        """Rows of an embedding table: the highest id plus one."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    def __len__(self) -> int:
        """Return the number of entries."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and the version of the normalization: tokenizers with equal ones give equal ids."""
        content = f"{NORMALIZATION_VERSION}\n{self.tokenizer.to_str(pretty=False)}"
        return hashlib.sha256(content.encode()).hexdigest()

    def preprocess_text(self, txt: str, lang: str) -> str:
        """Return the normalized text; the published name of `normalize_lyrics`."""
        return normalize_lyrics(txt, lang)

    def encode(self, txt: str, lang: str) -> list[int]:
        """Return the ids of a text: the language tag, then its pieces.

        If the vocabulary has section tags, a tag with a number or remark ("[verse 2]") is encoded as the bare tag.

        Raises:
            ValueError: if the language is unknown or has no tag in this vocabulary, or if `normalize_lyrics` raises it.
        """
        return list(self.tokenizer.encode(self._tagged(txt, lang)).ids)

    def encode_lyrics(self, text: str, language: str) -> list[int]:
        """Return the model's input: start id, ids of the text, stop id; only start and stop for an instrumental."""
        pieces = self.encode(text, language) if text.strip() else []
        return [LYRICS_START_ID, *pieces, LYRICS_STOP_ID]

    def unknown_pieces(self, text: str, language: str) -> list[str]:
        """Return the pieces of a normalized text that become `[UNK]`, which a model cannot sing."""
        tagged = self._tagged(text, language)
        encoding = self.tokenizer.encode(tagged)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [tagged[start:end] for token_id, (start, end) in pairs if token_id == self.unknown_token_id]

    def decode(self, seq: Sequence[int] | Any) -> str:
        """Return the normalized text of ids (a sequence or one-dimensional tensor), with its language tag."""
        ids = [int(token_id) for token_id in seq]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        text = text.replace(" ", "").replace(SPACE_TOKEN, " ")
        return text.replace(START_TOKEN, "").replace(STOP_TOKEN, "")

    def batch_decode(self, sequences: Iterable[Sequence[int] | Any]) -> list[str]:
        """Return the texts of several sequences of ids."""
        return [self.decode(sequence) for sequence in sequences]

    def _tagged(self, text: str, language: str) -> str:
        """Return the input of the BPE: language tag and normalized text, with spaces as `[SPACE]`."""
        tag = language_tag(language)
        if self.tokenizer.token_to_id(tag) is None:
            raise ValueError(f"this lyrics vocabulary has no {tag}: train one with {language!r} among its languages")
        normalized = self.preprocess_text(text, language)
        if self._section_tags:
            normalized = _NUMBERED_TAG.sub(self._bare_tag, normalized)
        return f"{tag}{normalized}".replace(" ", SPACE_TOKEN)

    def _bare_tag(self, match: re.Match[str]) -> str:
        tag = f"[{match[1]}]"
        return tag if tag in self._section_tags else match[0]
