"""The demo as a list of steps, each with its command, inputs and outputs."""
