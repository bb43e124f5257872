"""Settings of monitoring, from `SETPOINT_MONITORING_*`."""

from pydantic import Field

from setpoint_runtime import settings


class MonitoringSettings(settings.ServiceSettings):
    """What monitoring can be told."""

    model_config = settings.settings_config("monitoring")

    port: int = Field(default=7404, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; monitoring keeps to the schema `monitoring` in it."""

    registry_address: str = "127.0.0.1:7406"
    """Where reference profiles and metrics at registration come from."""

    window_hours: int = Field(default=168, ge=1)
    """Length of the windows that alerts are judged on, aligned to 1970."""

    label_delay_hours: int = Field(default=24, ge=0)
    """A window's quality is judged this long after its end, when its outcomes are mostly known."""

    loss_tolerance: float = Field(default=0.05, ge=0)
    """Realised loss may exceed that at registration by this share of it."""

    evaluate_seconds: float = Field(default=60.0, ge=0)
    """How often alerts are judged by the service's clock; 0 leaves them to EvaluateAlerts."""

    count_seconds: float = Field(default=2.0, gt=0)
    """Least time between two rounds of counting what arrived into profiles."""
