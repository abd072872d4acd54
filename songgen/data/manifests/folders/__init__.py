"""Song folders: audio files that belong together by their names, and the texts beside them."""
