"""From manifests to tokenized Arrow data sets: sharded, resumable, atomic."""

from songgen.tokenize.options import TokenizeOptions, options_of
from songgen.tokenize.run import TooManyBadRows, tokenize_data

__all__ = ["TokenizeOptions", "TooManyBadRows", "options_of", "tokenize_data"]
