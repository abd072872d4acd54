"""The exit codes of every command, in one place. docs/guide.md and docs/trust.md list them for users."""

EXIT_DONE = 0
"""What was asked for is done; or a training run was stopped by a signal after saving (`run_status.json` says which)."""

EXIT_ERROR = 1
"""An error; the message says what to change."""

EXIT_USAGE = 2
"""A `songgen` command was asked for something that it cannot do: a wrong command line, file, folder or setting."""

EXIT_BAD_DATA = 3
"""Preprocessing found more damaged rows than `max_bad_fraction` allows; no data set was written."""

EXIT_NON_FINITE = 4
"""Loss or gradients were not finite; the weights from before are saved."""

EXIT_NO_CHECKPOINT = 5
"""Checkpoints could not be saved, several times in a row or where the run ends early; or the final model could not; or
the weights of the processes differ."""

EXIT_LOST_PROCESS = 6
"""Another process of the run, or a process that reads data for it, died or did not answer in time."""

EXIT_SIGNAL_BASE = 128
"""Plus the number of a signal: a second signal ended the process at once, nothing was saved after the first; in
preparing and preprocessing the first one did, in order, and what is done is kept."""
