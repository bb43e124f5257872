"""Who is at the other end of a connection, by gRPC's names."""

import asyncio
from typing import Any


def name(address: Any) -> str:
    """Return the address of a peer."""
    if not isinstance(address, tuple):
        return "unknown"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def auth_context(transport: asyncio.Transport | None) -> dict[str, list[bytes]]:
    """Return what the peer's certificate says; empty without TLS."""
    shown = transport and transport.get_extra_info("peercert")
    if not shown:
        return {}
    subject = [pair for group in shown.get("subject", ()) for pair in group]
    return {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [v.encode() for key, v in subject if key == "commonName"],
        "x509_subject_alternative_name": [
            value.encode() for _, value in shown.get("subjectAltName", ())
        ],
    }
