"""Routes and their history in PostgreSQL, and the last good copy of them in a file."""
