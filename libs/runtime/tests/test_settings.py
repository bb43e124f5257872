from pathlib import Path

import pytest
from pydantic import ValidationError

from setpoint_runtime import settings


class ExampleSettings(settings.ServiceSettings):
    model_config = settings.settings_config("example")

    port: int = 7400
    database_url: str = "postgresql+asyncpg://setpoint:hunter2@127.0.0.1:5432/setpoint"
    api_token: str = "sesame"
    feature_address: str = "127.0.0.1:7402"


def test_settings_have_safe_defaults() -> None:
    """Without any variable a service listens on loopback, without reflection."""
    read = ExampleSettings()

    assert read.host == "127.0.0.1"
    assert not read.dev
    assert not read.allow_insecure_remote
    assert read.effective_metrics_port == 8400


def test_settings_read_prefixed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field is a variable with the service's prefix, and others are not looked at."""
    monkeypatch.setenv("SETPOINT_EXAMPLE_PORT", "7500")
    monkeypatch.setenv("SETPOINT_EXAMPLE_FEATURE_ADDRESS", "10.0.0.1:1")
    monkeypatch.setenv("SETPOINT_EXAMPLE_LOG_LEVEL", "debug")
    monkeypatch.setenv("HOST", "elsewhere")

    read = ExampleSettings()

    assert (read.port, read.feature_address, read.log_level) == (7500, "10.0.0.1:1", "DEBUG")
    assert read.host == "127.0.0.1"


def test_settings_are_frozen() -> None:
    """Nothing changes a setting after the start."""
    read = ExampleSettings()

    with pytest.raises(ValidationError):
        read.port = 1


def test_settings_refuse_wrong_value_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is named by its field; the value may be a secret in the wrong place."""
    monkeypatch.setenv("SETPOINT_EXAMPLE_PORT", "hunter2")

    with pytest.raises(ValidationError) as caught:
        ExampleSettings()

    assert "port" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "metrics_port", "expected"), [(0, None, 0), (7400, None, 8400), (7400, 9, 9)]
)
def test_metrics_port_follows_port(port: int, metrics_port: int | None, expected: int) -> None:
    """The metrics port is 1,000 above the gRPC port unless set, and free for a free port."""
    read = ExampleSettings(port=port, metrics_port=metrics_port)

    assert read.effective_metrics_port == expected


def test_metrics_port_refuses_to_pass_last_port() -> None:
    """A gRPC port with no room above it is refused at the start, not at the first scrape."""
    with pytest.raises(ValidationError, match="metrics_port"):
        ExampleSettings(port=65_000)


def test_redacted_hides_secrets() -> None:
    """A log line of the settings holds no password, wherever it stands."""
    read = ExampleSettings()

    shown = settings.redacted(read)

    assert shown["database_url"] == "postgresql+asyncpg://setpoint:***@127.0.0.1:5432/setpoint"
    assert shown["api_token"] == "***"
    assert shown["feature_address"] == "127.0.0.1:7402"
    assert "hunter2" not in str(shown)
    assert "sesame" not in str(shown)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@localhost:6379/0",
        "postgresql://u:p@hunter2@h/db",
        "postgresql://h/db?user=u&password=hunter2",
        "s3://key:hunter2@bucket/path",
        "postgresql://h/db?sslmode=require&sslpassword=hunter2#x",
    ],
)
def test_redacted_hides_passwords_of_urls(url: str) -> None:
    """Passwords are found in the authority and in the query of an address."""
    shown = settings.redacted(ExampleSettings(database_url=url))

    assert "hunter2" not in str(shown)


def test_redacted_keeps_addresses_without_password() -> None:
    """What is no secret stays readable."""
    url = "file:///var/setpoint/artifacts?versions=2"

    assert settings.redacted(ExampleSettings(database_url=url))["database_url"] == url


def test_tls_files_come_together(tmp_path: Path) -> None:
    """Half an identity is refused at the start rather than served without TLS."""
    with pytest.raises(ValidationError, match="tls_authority_file"):
        ExampleSettings(tls_certificate_file=tmp_path / "own.pem")


def test_redacted_shows_where_keys_are(tmp_path: Path) -> None:
    """The path of a key is no secret, and needed to find a mistake."""
    path = tmp_path / "own.pem"
    read = ExampleSettings(tls_certificate_file=path, tls_key_file=path, tls_authority_file=path)

    assert settings.redacted(read)["tls_key_file"] == str(path)


def test_read_names_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """People are told which variables to change, without the values that may be secrets."""
    monkeypatch.setenv("SETPOINT_EXAMPLE_PORT", "hunter2")
    monkeypatch.setenv("SETPOINT_EXAMPLE_DRAIN_SECONDS", "-1")

    with pytest.raises(settings.SettingsError) as caught:
        settings.read(ExampleSettings)

    assert "SETPOINT_EXAMPLE_PORT: " in str(caught.value)
    assert "SETPOINT_EXAMPLE_DRAIN_SECONDS: " in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_read_returns_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Good settings are read as by their constructor."""
    monkeypatch.setenv("SETPOINT_EXAMPLE_PORT", "7500")

    assert settings.read(ExampleSettings).port == 7500
