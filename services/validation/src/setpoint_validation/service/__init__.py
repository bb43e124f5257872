"""The use cases of validation."""
