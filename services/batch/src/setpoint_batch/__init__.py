"""Predictions for whole tables: the batch half beside the router."""
