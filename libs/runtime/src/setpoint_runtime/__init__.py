"""What every Setpoint process needs and no framework brings.

Errors with reasons, time that can be injected, ids, names, settings and owned tasks. The core of
every service imports this package, so it imports nothing of gRPC, databases or telemetry.
"""
