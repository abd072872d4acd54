"""Subcommands of training runs."""
