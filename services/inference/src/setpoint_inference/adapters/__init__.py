"""onnxruntime, threads, the disk, and the registry."""
