"""The other services, and where partitions are worked on."""
