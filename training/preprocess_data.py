"""Turn songs into a tokenized data set: accelerate launch training/preprocess_data.py CONFIG.json [--key value ...].

Exit codes: 0 done, 3 too many damaged rows (see max_bad_fraction), 1 anything else.
"""

import logging
import sys

from songgen.config import load_run_config
from songgen.exit_codes import EXIT_BAD_DATA, EXIT_DONE
from songgen.preprocess import TooManyBadRows, options_of, run_preprocessing


def main() -> int:
    """Parse, build, run."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    config = load_run_config(sys.argv[1:], description=str(__doc__))
    try:
        run_preprocessing(options_of(config))
    except TooManyBadRows as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_DATA
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
