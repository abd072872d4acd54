"""Songs of flow-matching models, written by diffusers' pipeline: for `songgen generate`, evaluation and comparison."""
