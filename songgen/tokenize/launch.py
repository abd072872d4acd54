"""What `songgen tokenize` and `training/preprocess_data.py` call: configuration, run, exit code."""

import logging
import sys
from collections.abc import Sequence

from songgen.config import load_run_config
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.runtime.terminal import log_to_stderr, printable
from songgen.tokenize.options import options_of
from songgen.tokenize.run import TooManyBadRows, run_preprocessing


def run_tokenization(arguments: Sequence[str], *, description: str = "") -> int:
    """Turn songs into a tokenized data set, as a command line says.

    Args:
        arguments: `CONFIG.json [--key value ...]`.
        description: of the program, with its exit codes, for `--help`.

    Returns:
        the exit code, one of `songgen.exit_codes`.
    """
    log_to_stderr(logging.INFO)
    try:
        run_preprocessing(options_of(load_run_config(arguments, description=description)))
    except ValueError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return error.exit_code if isinstance(error, TooManyBadRows) else EXIT_ERROR
    return EXIT_DONE
