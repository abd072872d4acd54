"""Turn songs into a tokenized data set: accelerate launch training/preprocess_data.py CONFIG.json [--key value ...].

The same as `songgen tokenize`. Exit codes: 0 done, 3 too many damaged rows (see max_bad_fraction), 1 anything else.
"""

import sys

from songgen.tokenize.launch import run_tokenization

if __name__ == "__main__":
    sys.exit(run_tokenization(sys.argv[1:], description=str(__doc__)))
