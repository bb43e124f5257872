"""The ``setpoint`` command."""
