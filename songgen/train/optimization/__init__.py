"""Optimizer, engines, schedules, moving average, and the handling of steps that went wrong."""
