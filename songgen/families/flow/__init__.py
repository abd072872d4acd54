"""Family of flow-matching models over the latents of a continuous autoencoder: ACE-Step, opened by diffusers."""
