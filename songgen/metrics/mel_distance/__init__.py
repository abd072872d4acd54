"""The metric `mel_distance`: its module is opened by path, see `songgen.metrics.load_metric`."""
