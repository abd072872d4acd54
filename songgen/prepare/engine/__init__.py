"""The engine of `songgen prepare`: records, steps, the runner, and the store of results."""
