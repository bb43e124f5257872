"""Monitoring's ports over other services."""
