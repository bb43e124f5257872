"""What the services themselves say: their folders, settings and dependencies on one another."""

import importlib
from functools import cache
from pathlib import Path

from pydantic_settings import BaseSettings

from setpoint_runtime import settings

ROOT = Path(__file__).resolve().parents[2]
STORES = {"database_url": "postgres", "valkey_url": "valkey"}


def names() -> list[str]:
    """Lists the services by their folders."""
    return sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))


@cache
def settings_of(service: str) -> type[settings.ServiceSettings]:
    """Returns the settings class in a service's `config` module: the one it defines itself."""
    module = importlib.import_module(f"setpoint_{service}.config")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, settings.ServiceSettings)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} defines {len(found)} settings classes"
    return found[0]


def variables(service: str) -> set[str]:
    """Lists the environment variables that a service reads as settings."""
    kind: type[BaseSettings] = settings_of(service)
    prefix = kind.model_config["env_prefix"]
    return {f"{prefix}{field}".upper() for field in kind.model_fields}


def port(service: str) -> int:
    """Returns the gRPC port a service listens on unless told otherwise."""
    default = settings_of(service).model_fields["port"].default
    assert isinstance(default, int)
    return default


def calls(service: str) -> set[str]:
    """Lists the services and stores that a service has an address for."""
    fields = settings_of(service).model_fields
    peers = {name for name in names() if f"{name}_address" in fields}
    return peers | {store for field, store in STORES.items() if field in fields}
