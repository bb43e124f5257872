"""Fitting estimators and turning them into ONNX; the only place with scikit-learn.

Nothing here touches the network: it works on a snapshot file in a process of its own.
"""
