"""Console output, metrics files and trackers of a run."""
