"""Corrections by a person, and the page on which they are made."""
