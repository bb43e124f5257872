"""Inference: what a model version says for rows.

Versions are fetched from the registry by digest, verified byte for byte, and run by onnxruntime.
Nothing durable is held here, and nothing that is broken about one version touches another.
"""
