"""Retraining's ports over other services and processes."""
