"""Processes of a launch: starting, joining, commands, agreement, heartbeats."""
