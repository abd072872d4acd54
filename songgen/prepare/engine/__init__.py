"""The engine of a preparation: records, steps, their runner and the store of their results."""
