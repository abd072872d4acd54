"""The `songgen` command."""
