"""The steps of a preparation, one module each."""
