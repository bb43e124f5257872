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
        self._configuration = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that ask for the newest certificate at each handshake.

        Callers without a certificate of the authority are refused.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._fetch, require_client_authentication=True
        )

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
        self._configuration = self._read()
        self._stamp = stamp
        _LOGGER.info("certificate renewed", file=str(self._files.certificate))
        return True

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        # Runs on a thread of gRPC core during a handshake, so it must not touch the disk.
        return self._configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        # gRPC would take a key that does not fit, and then fail every handshake.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=files.authority.read_bytes()
        )

    def _stamped(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file does, also when it is replaced by a link."""
        files = self._files
        stats = [path.stat() for path in (files.certificate, files.key, files.authority)]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
