"""What retraining does: runs, their steps, and rollouts."""
