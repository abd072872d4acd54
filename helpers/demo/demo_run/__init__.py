"""The demo as a list of steps: what each one runs, needs and leaves behind."""
