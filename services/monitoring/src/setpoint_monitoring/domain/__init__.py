"""Statistics and states of monitoring: pure functions over numpy arrays."""
