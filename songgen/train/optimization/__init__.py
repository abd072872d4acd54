"""What changes the weights: optimizer, engines, schedules, averages and the handling of steps that went wrong."""
