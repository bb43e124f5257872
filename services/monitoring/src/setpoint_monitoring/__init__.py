"""The monitoring service: what was predicted, whether it was right, whether the world has moved."""
