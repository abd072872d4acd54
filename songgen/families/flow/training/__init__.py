"""Training of flow-matching models: timesteps, micro-batches, features of texts, and the objective."""
