"""Subcommands that make and use models."""
