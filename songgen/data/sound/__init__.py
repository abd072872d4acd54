"""The sound in audio files: what a container declares about it, what it contains, and figures of the signal."""
