"""What Setpoint's tests share: real servers, started once per run, a fresh state per test.

Nothing here has a fixed port or path, so that any number of test runs can go on side by side.
The fixtures are in `plugin`, which pytest loads by itself.
"""

from setpoint_devstack.ports import free_port

__all__ = ["free_port"]
