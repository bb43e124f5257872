"""The artifact of a version that another server runs: where it is, and what it is called there.

It is a small JSON document, so that a digest, a manifest and an approval are about it as about any
other artifact: `{"address": "host:port", "model": "name", "version": "optional"}`.
"""

import json
import mmap
import re
from dataclasses import dataclass
from typing import Final

from setpoint_artifacts import refusal
from setpoint_artifacts.signature import Signature
from setpoint_runtime import errors

MAX_BYTES: Final = 4096
_MAX_LENGTH: Final = 256
_ADDRESS: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]):\d{1,5}"
)
"""Host and port; none of the other names that gRPC would resolve, such as sockets of this machine."""
_KEYS: Final = frozenset({"address", "model", "version"})


@dataclass(frozen=True, slots=True)
class External:
    """A model of another server."""

    address: str
    """Host and port."""
    model: str
    version: str
    """Empty where the server chooses."""


def is_address(text: str) -> bool:
    """Tell whether text is a host with a port."""
    return _ADDRESS.fullmatch(text) is not None


def parse(data: bytes | mmap.mmap) -> External:
    """Return what a document says.

    Raises:
        RefusedError: INVALID_ARTIFACT, if it is none.
    """
    if len(data) > MAX_BYTES:
        raise _invalid(f"has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        content = json.loads(bytes(data))
    except (ValueError, RecursionError):
        raise _invalid("is no JSON") from None
    if not isinstance(content, dict) or not content.keys() <= _KEYS:
        raise _invalid(f"must be an object of {', '.join(sorted(_KEYS))}")
    values = {}
    for key in sorted(_KEYS):
        value = content.get(key, "")
        if not isinstance(value, str) or len(value) > _MAX_LENGTH or not value.isprintable():
            raise _invalid(f"has a {key} that is no plain text of at most {_MAX_LENGTH} characters")
        values[key] = value
    if not values["model"]:
        raise _invalid("names no model")
    if not is_address(values["address"]):
        raise _invalid(f"has the address {values['address'][:80]!r}, which is not host:port")
    return External(values["address"], values["model"], values["version"])


def inspect(data: bytes | mmap.mmap) -> Signature:
    """Check a document; what the model takes and gives only its server can say.

    Raises:
        RefusedError: INVALID_ARTIFACT.
    """
    parse(data)
    return Signature((), ())


def _invalid(what: str) -> refusal.RefusedError:
    return refusal.RefusedError(
        errors.Reason.INVALID_ARTIFACT, f"the description of an external model {what}"
    )
