"""What monitoring does: take in, report, and watch."""
