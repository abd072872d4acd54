"""Times of words, lines and clips."""
