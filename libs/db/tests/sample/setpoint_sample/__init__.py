"""A package that has migrations and nothing else."""
