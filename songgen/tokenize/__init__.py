"""From manifests to tokenized Arrow data sets: sharded, resumable, atomic."""

from songgen.tokenize.options import PreprocessOptions, options_of
from songgen.tokenize.run import TooManyBadRows, run_preprocessing

__all__ = ["PreprocessOptions", "TooManyBadRows", "options_of", "run_preprocessing"]
