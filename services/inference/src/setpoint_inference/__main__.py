"""Runs inference."""

import sys

from setpoint_inference import config, wiring
from setpoint_rpc import run
from setpoint_runtime import allocator

_SWITCH_SECONDS = 0.0005
"""How long a thread that inspects or opens a model may keep the interpreter from those that answer,
unless it is in one long step of a library; Python's own 5 ms would be felt by every call."""

if __name__ == "__main__":
    _ = allocator.keep_freed()
    sys.setswitchinterval(_SWITCH_SECONDS)
    run.run_service("inference", config.InferenceSettings, wiring.build)
