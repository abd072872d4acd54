"""Model families: what is trained, by which loss, on which data, and how it is sampled."""
