"""What the demo shows: measures of generated songs, curves, spectrograms and the page."""
