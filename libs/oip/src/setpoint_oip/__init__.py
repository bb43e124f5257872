"""The Open Inference Protocol, version 2, for servers and clients of it.

`protocol` holds the messages and stubs, in a pool of descriptors of their own, so that other
programs' stubs of the same names can live in the same process. `datatypes` and `tensors` read and
write what messages carry, `layout` turns tensors into the columns of a model and back, `status`
gives errors the codes that clients of the protocol expect. `client` asks a server, and
`conformance` tries one.
"""
