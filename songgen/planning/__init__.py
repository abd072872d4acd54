"""Before a run costs anything: its memory, time and disk space, checks of its configuration, and a new one for data."""
