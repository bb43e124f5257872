"""Retraining's tables in PostgreSQL; all SQL of the service is here."""
