"""Train the lyrics and the caption tokenizer on the texts of one or several manifests.

    python helpers/train_tokenizers.py --manifest datasets/demo/metadata.jsonl --out outputs/tokenizers

writes `OUT/lyrics_tokenizer.json` and `OUT/caption_tokenizer/`.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from songgen.conditioning import train_caption_tokenizer
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
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: {error}")
            continue
        for number, line in _numbered(lines):
            try:
                rows.append(_parse_row(line))
            except ValueError as error:
                problems.append(f"{path}, line {number}: {error}")
    if problems:
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        shown = problems[:_MAX_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("the manifests cannot be read:\n  " + "\n  ".join(shown))
    return rows


def _numbered(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _parse_row(line: str) -> Texts:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    texts = {key: row.get(key) or "" for key in ("caption", "lyrics")}
    language = row.get("language") or DEFAULT_LANGUAGE
    for key, value in {**texts, "language": language}.items():
        if not isinstance(value, str):
            raise ValueError(f"{key} is no text: {value!r}")
    return Texts(**texts, language=language_code(language))


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
