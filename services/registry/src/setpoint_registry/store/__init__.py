"""The registry's facts in PostgreSQL."""
