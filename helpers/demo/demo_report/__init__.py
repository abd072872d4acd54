"""Report of the demo: measures of generated songs, curves, spectrograms and the page."""
