"""Train the lyrics and the caption tokenizer on the texts of manifests; the same as `songgen tokenizer`.

    python helpers/train_tokenizers.py --manifest ./datasets/my_songs/metadata.jsonl --out ./outputs/tokenizers

writes `OUT/lyrics_tokenizer.json` and `OUT/caption_tokenizer/`.
"""

import argparse

from songgen.cli.data.tokenizer import add_arguments, run
from songgen.cli.main import DefaultsHelpFormatter


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=DefaultsHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        run(options)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
