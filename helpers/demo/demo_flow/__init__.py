"""Flow model of the demo: its autoencoder, its untrained pipeline, and what is measured."""
