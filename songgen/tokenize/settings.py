"""Fingerprint of everything that the contents of a shard depend on, except the rows."""

import hashlib
import json
from pathlib import Path

from songgen.data.schema import SCHEMA_VERSION, DatasetInfo
from songgen.families.encoding import Encoders
from songgen.tasks import MIX
from songgen.tokenize.options import TokenizeOptions

CODE = (
    "codecs/*.py",
    "lyrics/*.py",
    "conditioning/caption_tokenizer.py",
    "data/audio.py",
    "data/clip_audio.py",
    "data/sound/*.py",
    "data/manifests/clip.py",
    "data/reading.py",
    "data/reject_codes.py",
    "data/schema.py",
    "data/manifests/tags.py",
    "data/writer.py",
    "families/encoding.py",
    "tokenize/chunks.py",
    "tokenize/codes.py",
    "tokenize/statistics.py",
    "tokenize/text.py",
    "tasks.py",
    "vocabulary.py",
)
"""Source files that the contents of a shard depend on, besides those of a family's own encoders. An edit in one of
them invalidates finished chunks. A test follows the imports of `tokenize/chunks.py` to check that none is missing."""

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of `songgen`."""


def settings_fingerprint(options: TokenizeOptions, info: DatasetInfo, encoders: Encoders) -> str:
    """Return the hash of options, codec or autoencoder, tokenizers and code."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "codec": info.codec_fingerprint,
        "lyrics_tokenizer": info.lyrics_tokenizer_fingerprint,
        "caption_tokenizer": info.caption_tokenizer_fingerprint,
        "tracks": info.tracks,
        "required_tracks": (MIX,),  # constant; kept so that the keys of earlier runs stay valid
        "seconds": (options.min_seconds, options.max_seconds, options.crop_long),
        "text": (options.max_text_length, options.max_caption_tokens, options.max_lyrics_tokens),
        "voice": (info.voice_sample_rate, options.voice_min_energy),
        "code": code_fingerprint(CODE),
    }
    if encoders.code:
        content["encoders"] = (info.target_kind, encoders.texts.form, code_fingerprint(encoders.code))
    if options.kept_columns:
        content["kept_columns"] = options.kept_columns
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_fingerprint(patterns: tuple[str, ...], package: Path = PACKAGE) -> str:
    """Return the hash of the source text of a package's files."""
    digest = hashlib.sha256()
    for path in code_files(patterns, package):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def code_files(patterns: tuple[str, ...], package: Path = PACKAGE) -> list[Path]:
    """Return the files of a package that match patterns, sorted."""
    found = [sorted(package.glob(pattern)) for pattern in patterns]
    assert all(found), "every pattern names a file"
    return sorted(path for paths in found for path in paths)
