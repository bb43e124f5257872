"""Between the contracts' messages and the domain."""
