"""Mutual TLS: one identity for a process, with which it serves and calls.

Certificates are renewed while the process runs. The server takes new files as they come; gRPC
channels cannot, so a channel keeps the certificate it was opened with, and whoever opens channels
for longer than a certificate lives opens them anew.
"""

import asyncio
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import grpc

import setpoint_telemetry
from setpoint_runtime import settings as runtime_settings

_LOGGER = setpoint_telemetry.get_logger(__name__)
_LOOK_SECONDS = 10.0
_HTTP2 = "h2"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Where the identity of a process is, in PEM."""

    certificate: Path
    """Chain of certificates, the own one first."""
    key: Path
    """Private key of the own certificate."""
    authority: Path
    """Certificates of those who may vouch for a peer."""

    @classmethod
    def from_settings(cls, settings: runtime_settings.ServiceSettings) -> "TLSFiles | None":
        """Return the files that the settings name, or None when TLS is off."""
        files = (
            settings.tls_certificate_file,
            settings.tls_key_file,
            settings.tls_authority_file,
        )
        certificate, key, authority = files
        if certificate is None or key is None or authority is None:
            return None
        return cls(certificate, key, authority)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a channel shows and trusts."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.read_bytes(),
            private_key=self.key.read_bytes(),
            certificate_chain=self.certificate.read_bytes(),
        )

    def client_context(self) -> ssl.SSLContext:
        """Return what a connection shows and trusts, from the files as they are now.

        Raises:
            OSError: A file cannot be read, or certificate and key do not belong together.
        """
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols([_HTTP2])
        made.load_cert_chain(self.certificate, self.key)
        made.load_verify_locations(self.authority)
        return made


CURRENT: ContextVar[TLSFiles | None] = ContextVar("setpoint_tls_files", default=None)
"""The identity of this process, in effect for every channel that its wiring opens."""


class ServerIdentity:
    """What a server shows and whom it lets in, renewed when the files change."""

    def __init__(self, files: TLSFiles) -> None:
        """Read the files.

        Raises:
            OSError: A file cannot be read, or certificate and key do not belong together.
        """
        self._files = files
        self._stamp = self._stamped()
        self.current = self._read()
        """What the next handshake is made with."""

    def context(self) -> ssl.SSLContext:
        """Return a context that takes the newest certificate at each handshake.

        Callers without a certificate of the authority are refused.
        """
        made = self._read()
        made.sni_callback = self._renewed
        return made

    async def watch(self, look_seconds: float = _LOOK_SECONDS) -> None:
        """Take new files as they come, for ever; broken ones are logged and left alone."""
        while True:
            await asyncio.sleep(look_seconds)
            try:
                await asyncio.to_thread(self.renew)
            except OSError:
                # Half of a rotation is the usual case: the next look finds both halves.
                _LOGGER.warning("new certificate cannot be used", exc_info=True)

    def renew(self) -> bool:
        """Read the files again when they have changed; say whether they had.

        Raises:
            OSError: A file cannot be read, or certificate and key do not belong together.
        """
        stamp = self._stamped()
        if stamp == self._stamp:
            return False
        self.current = self._read()
        self._stamp = stamp
        _LOGGER.info("certificate renewed", file=str(self._files.certificate))
        return True

    def _renewed(
        self, handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> None:
        handshake.context = self.current

    def _read(self) -> ssl.SSLContext:
        files = self._files
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols([_HTTP2])
        made.load_cert_chain(files.certificate, files.key)
        made.load_verify_locations(files.authority)
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    def _stamped(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file does, also when it is replaced by a link."""
        files = self._files
        stats = [path.stat() for path in (files.certificate, files.key, files.authority)]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
