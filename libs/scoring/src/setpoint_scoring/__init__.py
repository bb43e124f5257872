"""What a loaded model version says for rows, wherever it runs.

`packing` turns columns into tensors and back, `onnx_engine` opens and runs a model, `runner` names
what an engine offers. A prediction that is served and one that is made in a batch come from this
same code, so that they are equal to the bit.
"""
