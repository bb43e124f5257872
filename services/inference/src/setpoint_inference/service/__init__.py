"""The use cases of inference: a table of loaded versions, and predictions over it."""
