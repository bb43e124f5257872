"""gRPC servers and channels of Setpoint; nothing else in the project builds them.

A server answers with deadlines, typed errors, health, metrics and a graceful end, and a channel
carries deadline, trace and caller on, so that a service is left with converting and calling.
"""
