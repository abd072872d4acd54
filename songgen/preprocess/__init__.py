"""From manifests to tokenized Arrow data sets: sharded, resumable, atomic."""

from songgen.preprocess.options import PreprocessOptions, options_of
from songgen.preprocess.pipeline import TooManyBadRows, run_preprocessing

__all__ = ["PreprocessOptions", "TooManyBadRows", "options_of", "run_preprocessing"]
