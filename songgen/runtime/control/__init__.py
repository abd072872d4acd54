"""Commands to a run that trains: their values and texts, and the ways they arrive on. Nothing here loads torch."""
