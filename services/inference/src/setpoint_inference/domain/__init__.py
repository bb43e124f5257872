"""Versions, the shapes of their inputs and outputs, and what running them costs. Pure."""
