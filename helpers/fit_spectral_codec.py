"""Fit the embedded spectral codec on the songs of one or more manifests; the same as `songgen codec`.

    python helpers/fit_spectral_codec.py --manifest ./datasets/my_songs/metadata.jsonl --out ./outputs/codec

A manifest has one JSON object per line; keys that end in `file_name` have audio paths relative to the manifest
(audio_file_name, vocal_file_name, acc_file_name), keys that end in `_abspath` absolute ones. Every file is used once:
the codec must be fitted on all tracks that it will encode. The folder can then be given wherever a codec is named.
"""

import argparse
import sys

from songgen.cli.data.codec import add_arguments, run
from songgen.cli.main import DefaultsHelpFormatter


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description="Fit the embedded spectral codec on the songs of manifests.",
        formatter_class=DefaultsHelpFormatter,
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        run(arguments)
    except ValueError as error:
        sys.exit(f"fit_spectral_codec: {error}")


if __name__ == "__main__":
    main()
