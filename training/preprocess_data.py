"""Turn songs into a tokenized data set: accelerate launch training/preprocess_data.py CONFIG.json [--key value ...].

Exit codes: 0 done, 3 too many damaged rows (see max_bad_fraction), 1 anything else.
"""

import logging
import sys

from songgen.config import load_run_config
from songgen.exit_codes import EXIT_BAD_DATA, EXIT_DONE, EXIT_ERROR
from songgen.runtime.terminal import log_to_stderr, printable
from songgen.tokenize import TooManyBadRows, options_of, run_preprocessing


def main() -> int:
    """Parse, build, run."""
    log_to_stderr(logging.INFO)
    try:
        run_preprocessing(options_of(load_run_config(sys.argv[1:], description=str(__doc__))))
    except ValueError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return EXIT_BAD_DATA if isinstance(error, TooManyBadRows) else EXIT_ERROR
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
