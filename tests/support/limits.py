"""The one time limit of everything that tests start."""

SAFETY_SECONDS = 600
"""Seconds after which something that a test waits for counts as hanging. It is a safety net and no measurement: nothing
takes as long, not on a machine that does ten other things either. What a test says about time it says by itself."""
