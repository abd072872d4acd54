"""Training: the trainer and its parts. Import the modules themselves; this package loads nothing by itself."""
