"""Suites and runs in PostgreSQL."""
