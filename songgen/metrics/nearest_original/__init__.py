"""The metric `nearest_original`: its module is opened by path, see `songgen.metrics.load_metric`."""
