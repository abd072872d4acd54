"""Words, lines and clips in time."""
