"""Entry point of `songgen tokenize` and `training/preprocess_data.py`: configuration, run, exit code."""

import logging
import signal
from collections.abc import Sequence

from songgen.config import load_run_config
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_SIGNAL_BASE
from songgen.runtime.processes.peers import LostProcess
from songgen.runtime.processes.signals import KEPT
from songgen.runtime.terminal import log_to_stderr, outliving_terminal, say
from songgen.tokenize.options import options_of
from songgen.tokenize.run import TooManyBadRows, tokenize_data


def run_tokenization(arguments: Sequence[str], *, description: str = "") -> int:
    """Tokenize songs into a data set, from command line arguments.

    Args:
        arguments: `CONFIG.json [--key value ...]`.
        description: description of the program and its exit codes, shown by `--help`.

    Returns:
        The exit code, one of `songgen.exit_codes`.
    """
    with outliving_terminal():
        log_to_stderr(logging.INFO)
        try:
            tokenize_data(options_of(load_run_config(arguments, description=description)))
        except ValueError as error:
            say(f"error: {error}")
            return error.exit_code if isinstance(error, TooManyBadRows) else EXIT_ERROR
        except LostProcess as error:
            say(f"error: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            say(f"stopped by Ctrl-C; {KEPT}")
            return EXIT_SIGNAL_BASE + signal.SIGINT
    return EXIT_DONE
