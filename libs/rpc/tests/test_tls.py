import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint_rpc import channel, server, testing, tls
from setpoint_runtime import settings

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with the openssl command"
)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """Makes certificates for tests, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self._key = folder / "authority.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=Test Authority"),
            *("-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(self, name: str, at: str = "DNS:localhost,IP:127.0.0.1") -> tls.TLSFiles:
        """Returns a new identity, by default for this machine, vouched for by this authority."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)),
        )
        extensions.write_text(f"subjectAltName={at}")
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate)),
            *("-CAkey", str(self._key), "-CAcreateserial", "-days", "1"),
            *("-extfile", str(extensions), "-out", str(certificate)),
        )
        return tls.TLSFiles(certificate, key, self.certificate)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


async def _whom(request: bytes, servicer_context: Any) -> bytes:
    names: list[bytes] = servicer_context.auth_context().get("x509_common_name", [])
    return b",".join(names)


async def _ask(opened: channel.Channel) -> bytes:
    answer: bytes = await opened.unary_unary(testing.path("Whom"))(b"", timeout=5)
    return answer


async def test_both_sides_know_each_other(authority: Authority) -> None:
    """With files of one authority a call goes through, and the server knows who calls."""
    options = server.ServerOptions(identity=authority.issue("router"))
    async with testing.serve(testing.unary("Whom", _whom), options) as served:
        identity = authority.issue("caller")
        async with channel.connect(served.address, client="t", identity=identity) as opened:
            assert await _ask(opened) == b"caller"


async def test_replica_shows_certificate_of_its_name(authority: Authority) -> None:
    """A replica found behind a name is called by its address, and its certificate has the name."""
    options = server.ServerOptions(identity=authority.issue("inference", "DNS:inference.example"))
    identity = authority.issue("caller")
    async with testing.serve(testing.unary("Whom", _whom), options) as served:
        found: dict[str, Any] = {"client": "t", "identity": identity, "is_replica": True}
        async with channel.connect(served.address, **found) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _ask(opened)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with channel.connect(
            served.address, authority="inference.example", **found
        ) as opened:
            assert await _ask(opened) == b"caller"


async def test_wiring_calls_with_identity_of_process(authority: Authority) -> None:
    """Channels opened by a service's wiring need not be told of its certificate."""
    options = server.ServerOptions(identity=authority.issue("router"))
    async with testing.serve(testing.unary("Whom", _whom), options) as served:
        token = tls.CURRENT.set(authority.issue("feature"))
        opened = channel.connect(served.address, client="t")
        tls.CURRENT.reset(token)
        assert await _ask(opened) == b"feature"
        await opened.close()


async def test_plaintext_caller_is_refused(authority: Authority) -> None:
    """A caller in the clear gets nowhere."""
    options = server.ServerOptions(identity=authority.issue("router"))
    async with (
        testing.serve(testing.unary("Whom", _whom), options) as served,
        channel.connect(served.address, client="t") as opened,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(opened)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_caller_of_other_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Who is vouched for by nobody we trust is refused, though it trusts us."""
    stranger = Authority(tmp_path / "other").issue("stranger")
    trusting = tls.TLSFiles(stranger.certificate, stranger.key, authority.certificate)
    options = server.ServerOptions(identity=authority.issue("router"))
    async with (
        testing.serve(testing.unary("Whom", _whom), options) as served,
        channel.connect(served.address, client="t", identity=trusting) as opened,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(opened)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_permits_listening_beyond_loopback(authority: Authority) -> None:
    """With TLS a server may be reached by others."""
    options = server.ServerOptions(host="0.0.0.0", identity=authority.issue("router"))
    built = server.Server("router", options)
    await built.start()
    await built.stop(0)


async def test_key_of_other_certificate_stops_start(authority: Authority) -> None:
    """Files that do not belong together are found at the start, by the names of the settings."""
    one, other = authority.issue("one"), authority.issue("other")
    mixed = tls.TLSFiles(one.certificate, other.key, one.authority)
    built = server.Server("router", server.ServerOptions(identity=mixed))

    with pytest.raises(server.StartError, match="SETPOINT_ROUTER_TLS_CERTIFICATE_FILE"):
        await built.start()
    await built.stop(0)


async def test_rotation_under_calls_loses_none(authority: Authority) -> None:
    """New files are taken for new connections, while calls go on without one error."""
    files = authority.issue("router")
    options = server.ServerOptions(identity=files)
    caller = authority.issue("caller")
    async with testing.serve(testing.unary("Whom", _whom), options) as served:
        assert served._identity is not None
        async with channel.connect(served.address, client="t", identity=caller) as opened:
            calls = [asyncio.ensure_future(_ask(opened)) for _ in range(20)]
            renewed = authority.issue("renewed")
            files.key.write_bytes(renewed.key.read_bytes())
            with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
                served._identity.renew()
            assert await _ask(opened) == b"caller"
            files.certificate.write_bytes(renewed.certificate.read_bytes())
            assert served._identity.renew()
            assert not served._identity.renew()
            assert set(await asyncio.gather(*calls)) == {b"caller"}
        async with channel.connect(served.address, client="t", identity=caller) as opened:
            assert await _ask(opened) == b"caller"
        shown = await asyncio.to_thread(_common_name, served.port, caller)

    assert shown == "renewed"


def _common_name(port: int, caller: tls.TLSFiles) -> str:
    """Returns the name in the certificate that a server shows now."""
    finished = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2"),
            *("-cert", str(caller.certificate), "-key", str(caller.key)),
            *("-CAfile", str(caller.authority)),
        ],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )
    # What follows the certificate may hold bytes of the connection itself, which are no text.
    shown = finished.stdout.decode(errors="replace")
    subject = next(line for line in shown.splitlines() if line.startswith("subject="))
    return subject.replace(" ", "").partition("CN=")[2]


async def test_watch_takes_new_files(authority: Authority) -> None:
    """The files are looked at regularly; half a rotation is waited out."""
    files = authority.issue("router")
    identity = tls.ServerIdentity(files)
    before = identity.current
    watch = asyncio.create_task(identity.watch(0.02))
    renewed = authority.issue("renewed")
    files.key.write_bytes(renewed.key.read_bytes())
    await asyncio.sleep(0.2)
    assert identity.current is before
    files.certificate.write_bytes(renewed.certificate.read_bytes())
    async with asyncio.timeout(5):
        while identity.current is before:
            await asyncio.sleep(0.02)
    watch.cancel()


def test_settings_name_files(tmp_path: Path) -> None:
    """Three settings turn TLS on; none of them leaves it off."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    on = settings.ServiceSettings(
        tls_certificate_file=paths[0], tls_key_file=paths[1], tls_authority_file=paths[2]
    )

    assert tls.TLSFiles.from_settings(on) == tls.TLSFiles(*paths)
    assert tls.TLSFiles.from_settings(settings.ServiceSettings()) is None
