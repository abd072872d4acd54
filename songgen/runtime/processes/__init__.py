"""Processes of a launch: started, joined, asked to stop, agreeing with each other, and watched."""
