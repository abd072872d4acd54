"""Train the general tokenizers that the package carries, on the texts next to this script.

The texts were written for this purpose: a song in each of the 17 languages, captions, and the characters of their
scripts. Run it again only if these change, since models with the earlier vocabulary would not fit the new one:

    python helpers/general_tokenizers/make_general_tokenizers.py
"""

import sys
from pathlib import Path

from songgen.cli.main import main
from songgen.models.initialize import GENERAL_TOKENIZERS
from songgen.runtime.file_hashes import record_hashes

TEXTS = Path(__file__).parent / "texts.jsonl"
LYRICS_ENTRIES, CAPTION_ENTRIES = 1200, 1024
FOR_OTHER_TOOLS = "spiece.model"
"""File that songgen does not read."""


def make(out: Path) -> int:
    """Train both tokenizers into a folder, and return the exit code."""
    sizes = ["--lyrics_vocab_size", str(LYRICS_ENTRIES), "--caption_vocab_size", str(CAPTION_ENTRIES)]
    code = main(["tokenizer", "--manifest", str(TEXTS), "--out", str(out), *sizes])
    for path in out.rglob(FOR_OTHER_TOOLS):
        path.unlink()
    record_hashes(out, sorted(path.relative_to(out).as_posix() for path in out.rglob("*token*.json")))
    return code


if __name__ == "__main__":
    sys.exit(make(GENERAL_TOKENIZERS))
