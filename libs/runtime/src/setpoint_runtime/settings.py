"""Settings of a service: environment variables with safe defaults, read once at the start."""

import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Metrics and probes listen this far above the gRPC port unless told otherwise.
METRICS_PORT_OFFSET = 1000
_LAST_PORT = 65_535
_DAY_SECONDS = 86_400.0
_CENTURY_SECONDS = 100 * 366 * _DAY_SECONDS
_HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?:password|secret|token|credential|private_key|api_key)(?!_(?:file|path|url))", re.IGNORECASE
)
# The password of a URL ends at the last @ before the path, since a raw password may hold one.
_URL_PASSWORD = re.compile(r"(?<=://)([^:/?#\s]*):[^/?#\s]*@")
_SECRET_QUERY = re.compile(
    r"([?&;]\w*(?:password|passwd|secret|token|key)\w*=)[^&#;\s]*", re.IGNORECASE
)


def settings_config(service: str) -> SettingsConfigDict:
    """Return the model configuration of a service: frozen, read from `SETPOINT_<SERVICE>_*`."""
    return SettingsConfigDict(
        env_prefix=f"SETPOINT_{service.upper()}_",
        frozen=True,
        extra="forbid",
        validate_default=True,
        # A wrong value is named by its field; its content may be a secret.
        hide_input_in_errors=True,
    )


class ServiceSettings(BaseSettings):
    """What every service can be told."""

    model_config = SettingsConfigDict(
        env_prefix="SETPOINT_",
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on, for gRPC and for metrics."""

    port: int = Field(default=0, ge=0, le=_LAST_PORT)
    """gRPC port; 0 lets the system choose one."""

    metrics_port: int | None = Field(default=None, ge=0, le=_LAST_PORT)
    """Port of /metrics, /livez and /readyz; by default the gRPC port + 1000, 0 lets the system choose."""

    dev: bool = False
    """Conveniences for development; today gRPC reflection."""

    allow_insecure_remote: bool = False
    """Permit listening beyond loopback without TLS, where the network itself is trusted."""

    tls_certificate_file: Path | None = None
    """Own certificate chain in PEM; with key and authority it turns on mutual TLS, both ways."""

    tls_key_file: Path | None = None
    """Private key of the own certificate in PEM."""

    tls_authority_file: Path | None = None
    """Certificates in PEM of those who may vouch for callers and peers."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    log_format: Literal["console", "json"] = "json"
    """One JSON object a line, or coloured text for people."""

    drain_seconds: float = Field(default=0.5, ge=0)
    """Time between saying NOT_SERVING and refusing calls, in which load balancers look away."""

    grace_seconds: float = Field(default=20.0, ge=0)
    """Time that calls in flight get to end once new ones are refused."""

    stream_seconds: float = Field(default=20.0, ge=0)
    """How long a call may go on over a connection that has reached its age: callers renew theirs every two
    minutes, and a call that takes longer than this may be cut off."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_metrics_port(self) -> Self:
        if self.metrics_port is None and self.port + METRICS_PORT_OFFSET > _LAST_PORT:
            raise ValueError(
                f"port {self.port} leaves no room for metrics at +{METRICS_PORT_OFFSET}; set metrics_port"
            )
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        files = (self.tls_certificate_file, self.tls_key_file, self.tls_authority_file)
        if any(files) and not all(files):
            raise ValueError(
                "TLS needs tls_certificate_file, tls_key_file and tls_authority_file together"
            )
        return self

    @property
    def effective_metrics_port(self) -> int:
        """The port of metrics and probes, derived from the gRPC port when it is not set."""
        if self.metrics_port is not None:
            return self.metrics_port
        return self.port + METRICS_PORT_OFFSET if self.port else 0


class RememberingSettings(ServiceSettings):
    """What a service can be told that answers a repeated call as it did the first time."""

    request_life_seconds: float = Field(default=30 * _DAY_SECONDS, ge=0, le=_CENTURY_SECONDS)
    """How long the answer of a mutating call is remembered for repetitions of it, which do the work again
    afterwards; 0 for ever."""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class SettingsError(Exception):
    """Settings that cannot be used; the text names the variables, never their values."""


def read(settings_type: type[SettingsT]) -> SettingsT:
    """Return the settings that the environment holds.

    Raises:
        SettingsError: Some are wrong; each is named by its variable.
    """
    try:
        return settings_type()
    except ValidationError as error:
        prefix = str(settings_type.model_config.get("env_prefix", ""))
        lines = [
            f"{_variable(prefix, problem['loc'])}: {problem['msg']}" for problem in error.errors()
        ]
        raise SettingsError("; ".join(lines)) from error


def _variable(prefix: str, location: tuple[int | str, ...]) -> str:
    """Return the environment variable of a field; a rule over several fields has none."""
    return prefix + "_".join(str(part) for part in location).upper() if location else "settings"


def redacted(settings: BaseSettings) -> dict[str, Any]:
    """Return the settings for a log line: secrets are hidden, everything else is as given."""
    return {name: _hidden(name, value) for name, value in settings.model_dump(mode="json").items()}


def _hidden(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hidden(f"{name}_{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(name, item) for item in value]
    if _SECRET_NAME.search(name) and value not in (None, "", False):
        return _HIDDEN
    if isinstance(value, str):
        return _SECRET_QUERY.sub(rf"\1{_HIDDEN}", _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", value))
    return value
