"""Fixtures for tests of planning."""

from planning_fakes import facts_of, world

__all__ = ["facts_of", "world"]
