"""The registry's folder of artifacts."""
