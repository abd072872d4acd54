"""The caption tokenizer: T5's own, or a small sentencepiece model of the same kind trained on the corpus."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from songgen.runtime.file_hashes import checked_folder
from songgen.runtime.pretrained import FOREIGN_ERRORS

PAD_TOKEN_ID, EOS_TOKEN_ID, UNK_TOKEN_ID = 0, 1, 2
"""Ids of T5's vocabularies, kept by those trained here."""

_PAD, _EOS, _UNK, _SPACE = "<pad>", "</s>", "<unk>", "▁"
_SENTENCEPIECE_FILE = "spiece.model"
_NUM_BYTES = 256


def load_caption_tokenizer(folder_or_id: str | Path, revision: str | None = None) -> Any:
    """Open a caption tokenizer; called with a text it gives `input_ids` and `attention_mask`, `</s>` at the end.

    Args:
        folder_or_id: a folder, or a hub id such as `google/flan-t5-large`.
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: if there is none, if it has changed since it was written, or if it could not pad or end a sequence.
    """
    if Path(folder_or_id).is_dir():
        checked_folder(Path(folder_or_id))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder_or_id), revision=revision, trust_remote_code=False)
    except FOREIGN_ERRORS as error:
        raise ValueError(f"no caption tokenizer in {folder_or_id!s} (a folder or a hub id): {error}") from error
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {folder_or_id!s} lacks a padding or an end token: it is none of T5's kind")
    return tokenizer


def caption_tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of what a caption tokenizer does: its vocabulary, its special tokens and a sample of its output."""
    probe = "A slow, warm Folk-Ballad (1973): 92 bpm; café, naïve — ÄÖÜ 東京"
    content = [sorted(tokenizer.get_vocab().items()), tokenizer.all_special_tokens, list(tokenizer(probe).input_ids)]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def train_caption_tokenizer(lines: Iterable[str], vocab_size: int, out_folder: str | Path) -> Any:
    """Train a sentencepiece model (unigram) on captions, write it so that `load_caption_tokenizer` opens it, open it.

    Ids: padding 0, end 1, unknown 2, then 256 bytes into which characters unknown to the corpus fall apart. The same
    captions, in any order, give the same model.

    Args:
        lines: captions.
        vocab_size: entries at most; fewer where the corpus has no more pieces.
        out_folder: receives `tokenizer.json`, `tokenizer_config.json` and, for other tools, `spiece.model`.

    Raises:
        ValueError: if there is no caption, or if `vocab_size` does not hold the bytes and characters.
    """
    captions = sorted(line.strip() for line in lines if line.strip())
    if not captions:
        raise ValueError("no captions to train a tokenizer from: every line is empty")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="nfkc",
            pad_id=PAD_TOKEN_ID,
            eos_id=EOS_TOKEN_ID,
            unk_id=UNK_TOKEN_ID,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"cannot train a caption tokenizer with vocab_size {vocab_size} ({_NUM_BYTES} bytes, 3 special tokens and "
            f"every character of the captions must fit): {error}"
        ) from error
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SENTENCEPIECE_FILE).write_bytes(model.getvalue())
    _with_byte_fallback(model.getvalue()).save_pretrained(str(folder))
    return load_caption_tokenizer(folder)


def _with_byte_fallback(serialized: bytes) -> Any:
    """Convert a sentencepiece model.

    The library's own T5 class switches byte fallback off when it reads a `spiece.model`, so that unknown characters
    would be lost; hence a tokenizer file of our own.
    """
    model = sentencepiece.SentencePieceProcessor(model_proto=serialized)
    vocabulary = [(model.id_to_piece(piece), model.get_score(piece)) for piece in range(model.get_piece_size())]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=UNK_TOKEN_ID, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", _EOS], pair=["$A", _EOS, "$B", _EOS], special_tokens=[(_EOS, EOS_TOKEN_ID)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNK)
