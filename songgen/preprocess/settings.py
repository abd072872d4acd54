"""The fingerprint of everything besides the rows that decides what a shard holds."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from songgen import lyrics
from songgen.data import audio, clip, schema, tags
from songgen.data.schema import SCHEMA_VERSION, DatasetInfo
from songgen.preprocess import chunks, statistics, text
from songgen.preprocess.options import PreprocessOptions

CODE: tuple[ModuleType, ...] = (audio, clip, schema, tags, lyrics, chunks, statistics, text)
"""Modules whose code decides what becomes of a row; an edit in one of them invalidates finished chunks."""


def settings_fingerprint(options: PreprocessOptions, info: DatasetInfo) -> str:
    """Return the hash of options, codec, tokenizers and code."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "codec": info.codec_fingerprint,
        "lyrics_tokenizer": info.lyrics_tokenizer_fingerprint,
        "caption_tokenizer": info.caption_tokenizer_fingerprint,
        "tracks": options.tracks,
        "required_tracks": options.required_tracks,
        "seconds": (options.min_seconds, options.max_seconds, options.crop_long),
        "text": (options.max_text_length, options.max_caption_tokens, options.max_lyrics_tokens),
        "voice": (options.voice_sample_rate, options.voice_min_energy),
        "code": code_fingerprint(CODE),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_fingerprint(modules: tuple[ModuleType, ...]) -> str:
    """Return the hash of the source text of modules; of a package, all files in it."""
    digest = hashlib.sha256()
    for module in modules:
        for path in _source_files(module):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _source_files(module: ModuleType) -> Iterator[Path]:
    assert module.__file__ is not None
    path = Path(module.__file__)
    yield from sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
