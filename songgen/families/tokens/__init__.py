"""The token family: one autoregressive transformer over the codebooks of an audio codec."""
