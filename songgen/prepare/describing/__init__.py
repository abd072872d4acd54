"""Tags and captions, by an audio language model or from measurements."""
