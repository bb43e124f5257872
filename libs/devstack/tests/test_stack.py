"""Stacks of stand-ins, on real stores."""

import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import asyncpg
import psutil
import pytest
import redis.asyncio as redis

from setpoint_devstack import catalogue, errors, health, lock, ports, stack

MakeService = Callable[..., catalogue.Service]
WaitUntil = Callable[[Callable[[], bool]], None]
IsGone = Callable[[int], bool]


def _stack(folder: pathlib.Path, *services: catalogue.Service, **options: object) -> stack.Stack:
    return stack.Stack(folder, services, default_ports=False, **options)  # type: ignore[arg-type]


async def test_starts_services_and_stores(tmp_path: pathlib.Path, stand_in: MakeService) -> None:
    """Everything is ready on entry, found by its addresses, and gone on exit."""
    services = [
        stand_in("router", peers=("feature",), database=True),
        stand_in("feature", database=True, valkey=True, folders={"THINGS": "things"}),
    ]
    async with _stack(tmp_path, *services) as running:
        assert await health.is_serving(running.addresses["router"])
        assert (
            running.environment["SETPOINT_ROUTER_FEATURE_ADDRESS"] == running.addresses["feature"]
        )
        assert pathlib.Path(running.environment["SETPOINT_FEATURE_THINGS"]).is_dir()
        found = stack.running_addresses(tmp_path)
        assert found is not None
        assert set(found) == {"router", "feature", "postgres", "valkey"}
        async with redis.Redis.from_url(
            running.environment["SETPOINT_FEATURE_VALKEY_URL"]
        ) as client:
            assert await client.set("a", "b")
        pids = [running.pid(name) for name in found]
    assert stack.running_addresses(tmp_path) is None
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_gives_each_service_a_schema_of_its_own(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """A service makes tables in its schema and cannot even look into another's."""
    services = [stand_in("router", database=True), stand_in("feature", database=True)]
    async with _stack(tmp_path, *services) as running:
        connection = await asyncpg.connect(running.environment["SETPOINT_ROUTER_DATABASE_URL"])
        await connection.execute("CREATE TABLE router.routes (name text)")
        await connection.execute("CREATE TEMPORARY TABLE staging (name text)")
        for statement in (
            "CREATE TABLE feature.mine (n int)",
            "CREATE TABLE public.mine (n int)",
            "CREATE SCHEMA mine",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.close()
        other = await asyncpg.connect(running.environment["SETPOINT_FEATURE_DATABASE_URL"])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch("SELECT * FROM router.routes")
        await other.close()


async def test_keeps_state_between_runs(tmp_path: pathlib.Path, stand_in: MakeService) -> None:
    """What was written in one run is there in the next, with new passwords."""
    service = stand_in("feature", database=True, valkey=True)
    async with _stack(tmp_path, service) as running:
        connection = await asyncpg.connect(running.environment["SETPOINT_FEATURE_DATABASE_URL"])
        await connection.execute("CREATE TABLE feature.kept (n int)")
        await connection.close()
        async with redis.Redis.from_url(
            running.environment["SETPOINT_FEATURE_VALKEY_URL"]
        ) as client:
            await client.set("kept", "yes")
        old = running.environment["SETPOINT_FEATURE_DATABASE_URL"]
    async with _stack(tmp_path, service) as running:
        assert running.environment["SETPOINT_FEATURE_DATABASE_URL"] != old
        connection = await asyncpg.connect(running.environment["SETPOINT_FEATURE_DATABASE_URL"])
        assert await connection.fetch("SELECT * FROM feature.kept") == []
        await connection.close()
        async with redis.Redis.from_url(
            running.environment["SETPOINT_FEATURE_VALKEY_URL"]
        ) as client:
            assert await client.get("kept") == b"yes"
    assert running.logs["feature"].with_suffix(".previous.log").exists()


async def test_starts_no_store_that_nobody_needs(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """A stack of services without state starts at once."""
    async with _stack(tmp_path, stand_in("inference")) as running:
        assert stack.running_addresses(tmp_path) == running.addresses
    assert not (tmp_path / "postgres").exists()


async def test_refuses_a_second_stack_on_the_folder(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """The second one is told who is there; the first one does not notice."""
    async with _stack(tmp_path, stand_in("inference")) as running:
        with pytest.raises(errors.AlreadyRunningError, match=str(os.getpid())):
            await _stack(tmp_path, stand_in("inference")).start()
        assert await health.is_serving(running.addresses["inference"])
        assert stack.running_addresses(tmp_path) == running.addresses


async def test_takes_over_the_lock_of_a_dead_stack(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """Files that a killed stack left do not count, only a live holder does."""
    (tmp_path / lock.LOCK).write_text("1\n")
    (tmp_path / lock.CHILDREN_LOCK).touch()
    (tmp_path / stack.ADDRESSES).write_text('{"inference": "127.0.0.1:1"}')
    assert stack.running_addresses(tmp_path) is None
    async with _stack(tmp_path, stand_in("inference")) as running:
        assert (tmp_path / lock.LOCK).read_text() == f"{os.getpid()}\n"
        assert stack.running_addresses(tmp_path) == running.addresses


async def test_says_when_a_default_port_is_taken(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """A taken default port is replaced and named; a taken fixed port is refused."""
    port = ports.free_port()
    ports.release(port)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", port)):
        service = stand_in("inference", port=port)
        running = stack.Stack(tmp_path, [service], say=lambda _, text: said.append(text))
        async with running:
            assert running.addresses["inference"] != f"127.0.0.1:{port}"
        assert f"port {port} is taken" in said[0]
        with pytest.raises(errors.DevstackError, match=f"port {port}.* taken"):
            await stack.Stack(tmp_path, [service], {"inference": port}).start()
    async with stack.Stack(tmp_path, [service]) as running:
        assert running.addresses["inference"] == f"127.0.0.1:{port}"


async def test_reports_a_service_that_dies_at_its_start(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """The error shows the last words, and what ran already is stopped."""
    services = [stand_in("feature"), stand_in("router", peers=("feature",))]
    failing = _stack(tmp_path, *services, environment={"STAND_IN_ROUTER": "die"})
    with pytest.raises(errors.ProcessDiedError, match="the disk is on fire") as caught:
        await failing.start()
    assert "router ended (exit code 3)" in str(caught.value)
    assert not failing.is_running("feature")
    assert not lock.is_held(tmp_path)


async def test_reports_a_service_that_dies_later(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """A death that nobody asked for ends the waiting."""
    async with _stack(tmp_path, stand_in("inference")) as running:
        running.signal("inference", signal.SIGKILL)
        with pytest.raises(errors.ProcessDiedError, match=r"inference ended \(killed by SIGKILL\)"):
            await asyncio.wait_for(running.wait(), 10)


async def test_starts_a_dead_service_again_when_told_to(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """With restart a service comes back at its address."""
    said: list[str] = []
    async with _stack(
        tmp_path, stand_in("inference"), restart=True, say=lambda _, text: said.append(text)
    ) as running:
        old = running.pid("inference")
        running.signal("inference", signal.SIGKILL)
        async with asyncio.timeout(20):
            while running.pid("inference") == old or not await health.is_serving(
                running.addresses["inference"]
            ):
                await asyncio.sleep(0.05)
        assert running.failure is None
    assert any("starting again in 0.5 s" in text for text in said)


async def test_kills_and_restarts_a_service(tmp_path: pathlib.Path, stand_in: MakeService) -> None:
    """A kill made on purpose is no failure; the service returns at the same address."""
    async with _stack(tmp_path, stand_in("inference")) as running:
        address = running.addresses["inference"]
        await running.kill("inference")
        assert not running.is_running("inference")
        assert not await health.is_serving(address)
        await asyncio.sleep(3 * stack.POLL_SECONDS)
        assert running.failure is None
        await running.restart("inference")
        assert await health.is_serving(address)
        await running.restart("inference")
        assert await health.is_serving(address)
        with pytest.raises(errors.DevstackError, match="nothing is not part"):
            await running.kill("nothing")


async def test_recovers_the_stores_after_a_crash(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """PostgreSQL and Valkey killed in full work come back with what was promised."""
    async with _stack(tmp_path, stand_in("feature", database=True, valkey=True)) as running:
        url = running.environment["SETPOINT_FEATURE_DATABASE_URL"]
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE feature.kept (n int)")
        await connection.execute("INSERT INTO feature.kept SELECT generate_series(1, 1000)")
        await running.kill("postgres")
        await running.kill("valkey")
        connection.terminate()
        await running.restart("postgres")
        await running.restart("valkey")
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM feature.kept") == 1000
        await connection.close()
        async with redis.Redis.from_url(
            running.environment["SETPOINT_FEATURE_VALKEY_URL"]
        ) as client:
            assert await client.ping()


async def test_kills_what_does_not_stop(
    tmp_path: pathlib.Path, stand_in: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that ignores SIGTERM ends after the bound."""
    monkeypatch.setattr(stack, "GRACE_SECONDS", 0.3)
    said: list[str] = []
    async with _stack(
        tmp_path,
        stand_in("inference"),
        environment={"STAND_IN_INFERENCE": "stubborn"},
        say=lambda _, text: said.append(text),
    ):
        pass
    assert "stopped (killed by SIGKILL)" in said


async def test_stops_in_reverse_order(tmp_path: pathlib.Path, stand_in: MakeService) -> None:
    """A service outlives those that call it, even slow ones."""
    said: list[tuple[str, str]] = []
    services = [
        stand_in("router", peers=("feature", "inference")),
        stand_in("feature", peers=("inference",)),
        stand_in("inference"),
    ]
    async with _stack(tmp_path, *services, say=lambda name, text: said.append((name, text))):
        pass
    assert [name for name, text in said if text.startswith("ready")] == [
        "inference",
        "feature",
        "router",
    ]
    assert [name for name, text in said if text.startswith("stopped")] == [
        "router",
        "feature",
        "inference",
    ]


async def test_waits_for_a_service_to_be_ready(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """Listening is not enough: the caller starts after its peer says SERVING."""
    services = [stand_in("feature"), stand_in("router", peers=("feature",))]
    async with _stack(tmp_path, *services, environment={"STAND_IN_FEATURE": "slow"}) as running:
        feature = psutil.Process(running.pid("feature")).create_time()
        router = psutil.Process(running.pid("router")).create_time()
    assert router - feature >= 1


async def test_leaves_nothing_when_its_start_is_cancelled(
    tmp_path: pathlib.Path, stand_in: MakeService
) -> None:
    """At whatever moment a start is given up, no process and no lock is left."""
    service = stand_in("feature", database=True, valkey=True)
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    for tenths in range(12):
        begun = _stack(tmp_path / str(tenths), service)
        starting = asyncio.create_task(begun.start())
        await asyncio.sleep(tenths / 10)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not starting.cancelled():
            await begun.stop()
        assert {child.pid for child in me.children(recursive=True)} <= before
        assert not lock.is_held(tmp_path / str(tenths))


_PARENT = """
import asyncio, json, pathlib, sys
from setpoint_devstack import catalogue, stack

async def main() -> None:
    stack.GRACE_SECONDS = 1.0
    folder, stand_in = pathlib.Path(sys.argv[1]), sys.argv[2]
    services = [
        catalogue.Service(name, 7499, peers=peers, valkey=True, command=(sys.executable, stand_in, name))
        for name, peers in (("feature", ()), ("router", ("feature",)))
    ]
    running = stack.Stack(folder, services, default_ports=False)
    await running.start()
    names = ["feature", "router", "postgres", "valkey"]
    print(json.dumps([running.pid(name) for name in names]), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("habit", ["", "stubborn", "family"])
async def test_leaves_no_orphan_after_kill_of_the_parent(
    tmp_path: pathlib.Path, wait_until: WaitUntil, is_gone: IsGone, habit: str
) -> None:
    """After kill -9 of the parent every descendant ends, and the next stack starts on the data."""
    stand_in = str(pathlib.Path(__file__).parent / "stand_in.py")
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), stand_in],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STAND_IN_ROUTER": habit},
    )
    assert parent.stdout is not None
    pids = json.loads(await asyncio.to_thread(parent.stdout.readline))
    everyone = {child.pid for child in psutil.Process(parent.pid).children(recursive=True)}
    assert everyone > set(pids)
    parent.kill()
    parent.communicate()
    # No sleep: the next stack itself has to wait for what is still ending.
    service = catalogue.Service(
        "feature", 7499, valkey=True, command=(sys.executable, stand_in, "feature")
    )
    async with _stack(tmp_path, service) as running:
        assert await health.is_serving(running.addresses["feature"])
        wait_until(lambda: all(is_gone(pid) for pid in everyone))


async def test_runs_replicas(tmp_path: pathlib.Path, stand_in: MakeService) -> None:
    """Callers get the addresses of all replicas, and each can be killed by its own name."""
    services = [stand_in("inference"), stand_in("router", peers=("inference",))]
    async with _stack(tmp_path, *services, replicas={"inference": 2}) as running:
        found = [running.addresses[name] for name in ("inference", "inference-2")]
        assert running.environment["SETPOINT_ROUTER_INFERENCE_ADDRESS"] == ",".join(found)
        assert [await health.is_serving(each) for each in found] == [True, True]
        for name in ("inference", "inference-2"):
            log = running.logs[name].read_text()
            assert f'"resource": "service.instance.id={name}"' in log
        await running.kill("inference-2")
        assert [await health.is_serving(each) for each in found] == [True, False]
        await running.restart("inference-2")
        assert await health.is_serving(found[1])
