"""Checks of model artifacts before anything trusts them.

An artifact is bytes from outside. `formats` recognises by name what must never be opened, such as
pickle files; `onnx_model` reads ONNX from memory and refuses what would reach beyond the file;
`signature` compares what a graph takes and gives with what a manifest says. Nothing here executes
an artifact, and nothing here opens a path that an artifact names.
"""
