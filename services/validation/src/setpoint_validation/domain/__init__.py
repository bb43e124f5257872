"""What suites, tables and runs are."""
