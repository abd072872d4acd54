"""Train the lyrics and the caption tokenizer on the texts of one or several manifests.

    python helpers/train_tokenizers.py --manifest ./datasets/my_songs/metadata.jsonl --out ./outputs/tokenizers

writes `OUT/lyrics_tokenizer.json` and `OUT/caption_tokenizer/`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.conditioning import train_caption_tokenizer
from songgen.data.manifests.raw_rows import ColumnNames, join_tags
from songgen.data.manifests.sources import ManifestSpec, open_source
from songgen.lyrics import language_code, train_lyrics_tokenizer

CAPTION_FOLDER = "caption_tokenizer"
DEFAULT_LYRICS_VOCAB_SIZE = 2048
DEFAULT_CAPTION_VOCAB_SIZE = 2048
DEFAULT_LANGUAGE = "english"
_MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Texts:
    """What one row of a manifest says in words."""

    caption: str
    """Description; may be empty."""

    lyrics: str
    """Sung words; empty for an instrumental."""

    language: str
    """Language of the lyrics."""


def read_manifests(paths: list[Path]) -> list[Texts]:
    """Read captions, lyrics and languages of all rows.

    Raises:
        ValueError: listing every unreadable file and every line that is no row.
    """
    rows: list[Texts] = []
    problems: list[str] = []
    for path in paths:
        try:
            # The same reader as preprocessing's: what it takes as a row is one here. Audio is not looked at.
            source = open_source(ManifestSpec(str(path), method="json"), ColumnNames(), spool_folder=path.parent)
            for raw in source.rows:
                try:
                    if raw.values is None:
                        raise ValueError(raw.error)
                    rows.append(_texts_of(raw.values))
                except ValueError as error:
                    problems.append(f"{path}, line {raw.line}: {error}")
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
    if problems:
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        shown = problems[:_MAX_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("the manifests cannot be read:\n  " + "\n  ".join(shown))
    return rows


def _texts_of(row: dict[str, Any]) -> Texts:
    language = _text(row, "language") or DEFAULT_LANGUAGE
    return Texts(_text(row, "caption"), _text(row, "lyrics"), language_code(language))


def _text(row: dict[str, Any], key: str) -> str:
    """Return a text, a list of tags as one text, or an empty one where the row has none."""
    value = row.get(key)
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return join_tags(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a text or a list of tags, not {str(value)[:40]!r}")
    return value or ""


def train_tokenizers(manifests: list[Path], out: Path, lyrics_vocab_size: int, caption_vocab_size: int) -> None:
    """Train both tokenizers and write them into a folder.

    Raises:
        ValueError: for unreadable manifests, manifests without texts, or vocabularies that are too small.
    """
    rows = read_manifests(manifests)
    lyrics = train_lyrics_tokenizer(((row.lyrics, row.language) for row in rows), lyrics_vocab_size)
    captions = train_caption_tokenizer((row.caption for row in rows), caption_vocab_size, out / CAPTION_FOLDER)
    path = lyrics.save_pretrained(out)
    print(f"{len(rows)} rows: lyrics vocabulary of {len(lyrics)} in {path}, caption vocabulary of {len(captions)}")


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="metadata.jsonl files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--lyrics_vocab_size", type=int, default=DEFAULT_LYRICS_VOCAB_SIZE)
    parser.add_argument("--caption_vocab_size", type=int, default=DEFAULT_CAPTION_VOCAB_SIZE)
    options = parser.parse_args(arguments)
    try:
        train_tokenizers(options.manifest, options.out, options.lyrics_vocab_size, options.caption_vocab_size)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
