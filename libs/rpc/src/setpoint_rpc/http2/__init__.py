"""gRPC over HTTP/2, served by the loop that runs the handlers.

gRPC core hands every call through threads and queues of its own before Python sees it, which costs
several times what the work of a small call does. Here the bytes of a connection are read, answered
and written by the same loop, without a hand-over.

RFC 9113 (HTTP/2), RFC 7541 (header compression) and the gRPC protocol over HTTP/2 are the rules.
"""
