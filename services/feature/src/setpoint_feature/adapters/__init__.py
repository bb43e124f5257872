"""Ports over other systems."""
