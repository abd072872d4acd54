"""Train a flow-matching model (ACE-Step): accelerate launch training/run_training_flow.py CONFIG.json.

Exit codes: 0 trained to the end or stopped by a signal after saving (`run_status.json` says which), 4 loss or gradients
not finite, 5 checkpoints could not be saved, 6 a process died or did not answer, 1 anything else.
"""

import sys

from songgen.planning.forecast import forecast_run
from songgen.train.launch import run_training

if __name__ == "__main__":
    sys.exit(run_training(sys.argv[1:], None, description=str(__doc__), forecaster=forecast_run))
