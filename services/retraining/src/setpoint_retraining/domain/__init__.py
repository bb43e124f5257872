"""Policies, runs, splits and gates: pure."""
