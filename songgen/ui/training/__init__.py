"""Runs on the page: what their files say, their curves, commands to them, and what a start would do."""
