"""The replicas of inference: who they are, which of them answers, and what happens when one fails.

`discovery` turns addresses into replicas, `replica` follows one of them, `fleet` keeps them together
and places versions on them, `calls` gets one answer out of them, `aside` does so
for shadows, and `metrics` shows what they do.
"""

from setpoint_router.adapters.replicas.aside import InferenceAside
from setpoint_router.adapters.replicas.calls import CallOptions, ReplicatedInference
from setpoint_router.adapters.replicas.discovery import parse
from setpoint_router.adapters.replicas.fleet import Fleet, FleetOptions
from setpoint_router.adapters.replicas.metrics import ReplicaMetrics

__all__ = [
    "CallOptions",
    "Fleet",
    "FleetOptions",
    "InferenceAside",
    "ReplicaMetrics",
    "ReplicatedInference",
    "parse",
]
