"""Runs monitoring."""

from setpoint_monitoring import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("monitoring", config.MonitoringSettings(), wiring.build)
