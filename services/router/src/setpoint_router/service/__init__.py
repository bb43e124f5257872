"""What the router does: answer predictions, and keep routes."""
