"""What the service does, one module for each concern, over the ports alone."""
