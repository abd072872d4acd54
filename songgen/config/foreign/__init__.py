"""Keys of other programs and of published files: accepted, without effect, or refused."""
