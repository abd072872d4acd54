"""The metric `codebook_accuracy`: its module is opened by path, see `songgen.metrics.load_metric`."""
