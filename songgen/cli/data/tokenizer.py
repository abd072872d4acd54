"""`songgen tokenizer`: train the tokenizers of lyrics and captions on the texts of manifests."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE

CAPTION_FOLDER = "caption_tokenizer"
DEFAULT_VOCAB_SIZE = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen tokenizer`."""
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="metadata.jsonl files with the texts")
    parser.add_argument(
        "--out", type=Path, required=True, help=f"folder for lyrics_tokenizer.json and {CAPTION_FOLDER}/"
    )
    parser.add_argument(
        "--lyrics_vocab_size", type=int, default=DEFAULT_VOCAB_SIZE, help="maximum size of the lyrics vocabulary"
    )
    parser.add_argument(
        "--caption_vocab_size", type=int, default=DEFAULT_VOCAB_SIZE, help="maximum size of the caption vocabulary"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train both tokenizers and write them into a folder.

    Raises:
        ValueError: if manifests cannot be read or hold no texts, or if a vocabulary is too small.
    """
    from songgen.conditioning import train_caption_tokenizer
    from songgen.data.manifests.contents import read_texts
    from songgen.lyrics import train_lyrics_tokenizer
    from songgen.runtime.file_hashes import HASHES_FILE, record_hashes
    from songgen.runtime.model_folders import part_files

    out: Path = arguments.out
    (out / HASHES_FILE).unlink(missing_ok=True)  # those of tokenizers that are replaced now
    songs = read_texts(arguments.manifest)
    lyrics = train_lyrics_tokenizer(((song.lyrics, song.language) for song in songs), arguments.lyrics_vocab_size)
    captions = train_caption_tokenizer(
        (song.caption for song in songs), arguments.caption_vocab_size, out / CAPTION_FOLDER
    )
    path = lyrics.save_pretrained(out)
    written = [path, *part_files(out / CAPTION_FOLDER, out)]
    record_hashes(out, [entry.relative_to(out).as_posix() for entry in written])
    print(f"{len(songs)} rows: lyrics vocabulary of {len(lyrics)} in {path}, caption vocabulary of {len(captions)}")
    return EXIT_DONE
