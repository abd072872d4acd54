"""Diagnosis of the parts of a model in folders of their own: codecs, frozen encoders, tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from songgen.codecs import AudioCodec, load_codec
from songgen.codecs.registry import CODEC_KINDS
from songgen.conditioning import load_caption_tokenizer, load_text_encoder, load_voice_encoder
from songgen.doctor.findings import Finding, Kind, error, ok
from songgen.lyrics import VOCABULARY_FILES, VoiceBpeTokenizer
from songgen.models.initialize import CAPTION_TOKENIZER_FOLDER
from songgen.models.loading import non_finite_weights
from songgen.runtime.json_files import read_json_object
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

ENCODERS = {
    "t5": ("text encoder", load_text_encoder),
    "hubert": ("voice encoder", load_voice_encoder),
    "mert_model": ("voice encoder", load_voice_encoder),
}
"""`model_type` of a frozen encoder -> what it is, and how it is opened."""

CAPTION_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
"""Files of which a folder with a caption tokenizer has at least one."""

_COPY_AGAIN = "copy the whole folder again"


def kind_of_part(folder: Path) -> Kind | None:
    """Return the kind of a folder with a part of a model; None if it holds none."""
    if (folder / MODEL_CONFIG_FILE).is_file():
        try:
            model_type = read_json_object(folder / MODEL_CONFIG_FILE).get("model_type")
        except ValueError:
            return None
        if isinstance(model_type, str) and model_type in CODEC_KINDS:
            return Kind.CODEC
        return Kind.ENCODER if isinstance(model_type, str) and model_type in ENCODERS else None
    names = (*VOCABULARY_FILES, *CAPTION_TOKENIZER_FILES)
    if any((folder / name).is_file() for name in names) or (folder / CAPTION_TOKENIZER_FOLDER).is_dir():
        return Kind.TOKENIZERS
    return None


def examine_codec(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Open a codec; with `deep`, check its weights, and encode and decode a second of noise."""
    try:
        codec = load_codec(str(folder))
    except ValueError as problem:
        yield error("codec", str(problem), _COPY_AGAIN)
        return
    tokens = f"{codec.num_codebooks} codebooks of {codec.codebook_size} codes, {codec.frame_rate:g} frames a second"
    yield ok("codec", f"{codec.kind}, {codec.sample_rate} Hz, {tokens}")
    yield ok("fingerprint", codec.fingerprint)
    if deep:
        yield from _values(folder)
        yield from _round_trip(codec)


def examine_encoder(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Open a frozen encoder; with `deep`, check its weights."""
    model_type = read_json_object(folder / MODEL_CONFIG_FILE)["model_type"]
    name, load = ENCODERS[model_type]
    try:
        encoder = load({"path": str(folder)})
    except ValueError as problem:
        yield error(name, str(problem), _COPY_AGAIN)
        return
    yield ok(name, f"{model_type}, width {encoder.hidden_size}")
    yield ok("fingerprint", encoder.fingerprint)
    if deep:
        yield from _values(folder)


def examine_tokenizers(path: Path) -> Iterator[Finding]:
    """Open the tokenizers in a folder, or a file with a lyrics vocabulary."""
    if path.is_file() or any((path / name).is_file() for name in VOCABULARY_FILES):
        try:
            yield ok("lyrics tokenizer", f"{len(VoiceBpeTokenizer.from_pretrained(path))} entries")
        except ValueError as problem:
            yield error("lyrics tokenizer", str(problem), "restore it from a copy, or train it again")
    for folder in (path, path / CAPTION_TOKENIZER_FOLDER):
        if any((folder / name).is_file() for name in CAPTION_TOKENIZER_FILES):
            try:
                yield ok("caption tokenizer", f"{len(load_caption_tokenizer(folder))} entries")
            except ValueError as problem:
                yield error("caption tokenizer", str(problem), _COPY_AGAIN)
        elif folder.is_dir() and folder.name == CAPTION_TOKENIZER_FOLDER:
            yield error("caption tokenizer", f"no {' or '.join(CAPTION_TOKENIZER_FILES)}", _COPY_AGAIN)


def _values(folder: Path) -> Iterator[Finding]:
    """Check that all weights are finite."""
    if not_finite := non_finite_weights(folder):
        yield error("weights", f"NaN or infinity in {len(not_finite)}, such as {not_finite[0]}", _COPY_AGAIN)
    else:
        yield ok("weights", "all values are finite")


def _round_trip(codec: AudioCodec) -> Iterator[Finding]:
    """Encode and decode a second of noise."""
    noise = torch.randn(1, 1, codec.sample_rate, generator=torch.Generator().manual_seed(0)) / 10
    try:
        codes, frames = codec.encode(noise, torch.tensor([codec.sample_rate]))
        sound = codec.decode(codes, frames)
    except (ValueError, RuntimeError) as problem:
        yield error("round trip", f"a second of noise cannot be encoded and decoded: {problem}", _COPY_AGAIN)
        return
    if sound.isfinite().all():
        yield ok("round trip", f"a second of noise became {int(frames[0])} frames, and sound again")
    else:
        yield error("round trip", "the decoded sound has values that are not finite", _COPY_AGAIN)
