"""Descriptions of external models, from whoever may upload them."""

import pytest

from setpoint_artifacts import external, refusal
from setpoint_artifacts.external import External


def test_parse() -> None:
    """Address, model and version are read; the version may be absent."""
    found = external.parse(b'{"address": "host.example:8001", "model": "m"}')
    assert found == External("host.example:8001", "m", "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 4_000,
        b"9" * 4_096,
        b" " * 5_000,
        b'{"model": "m"}',
        b'{"address": "a:1"}',
        b'{"address": "a:1", "model": 1}',
        b'{"address": "a:1", "model": "m", "path": "/"}',
        b'{"address": "unix:/run/a.sock", "model": "m"}',
        b'{"address": "a:1/b", "model": "m"}',
        b'{"address": "a:1", "model": "\\ud800"}',
        b'{"address": "a:1", "model": "m", "version": "\\u0000"}',
    ],
)
def test_parse_refuses(data: bytes) -> None:
    """What is no description is refused, and nothing else happens."""
    with pytest.raises(refusal.RefusedError, match="the description of an external model"):
        external.parse(data)
