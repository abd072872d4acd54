"""Songs on their way to the model: manifests, checked audio, tokenized Arrow data sets, samples and batches."""
