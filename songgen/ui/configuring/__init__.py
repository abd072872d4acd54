"""Configurations on the page: fields in sections, what depends on what, files, and what the checks say."""
