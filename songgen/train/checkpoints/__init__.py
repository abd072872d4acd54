"""Checkpoints: their files, the state they hold, and resuming from them."""
