"""A stack in the foreground of a terminal: its logs, until Ctrl-C or until something dies."""

import asyncio
import contextlib
import pathlib
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from setpoint_devstack import catalogue, errors, lock, logs, stack, stores

SELF = "setpoint"
"""The name in front of lines that no process wrote."""
EXIT_FAILED = 1
STORES_FILE = "stores.env"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.asynccontextmanager
async def _signals(on_repeat: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
    """Gives an event that the first signal to stop sets; a second one is for the impatient."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def handle() -> None:
        if asked.is_set():
            on_repeat()
        asked.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        yield asked
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def _first(*waits: Awaitable[object]) -> None:
    """Waits for the first of several, ends the others, and raises what the first one raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(
    directory: pathlib.Path = stack.DEFAULT_FOLDER,
    services: Iterable[str | catalogue.Service] | None = None,
    ports: Mapping[str, int] | None = None,
    *,
    replicas: Mapping[str, int] | None = None,
    environment: Mapping[str, str] | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> int:
    """Runs a stack until it is told to stop and returns an exit code.

    Args:
        directory: the stack's folder.
        services: which services; all by default.
        ports: fixed ports by name.
        replicas: how many there are of a service, by its name.
        environment: variables for all services.
        restart: start a service again when it dies, instead of ending.
        quiet: leave out the services' logs and print messages alone.

    Returns:
        0 after Ctrl-C or SIGTERM, 1 when a process died or could not be started.
    """
    widest = max([logs.NAME_WIDTH, *(len(f"{name}-2") for name in replicas or ())])
    printer = logs.LogPrinter(logs.console_for(sys.stdout), widest)
    try:
        made = stack.Stack(
            directory,
            services,
            ports,
            replicas=replicas,
            environment=environment,
            restart=restart,
            say=lambda name, text: printer.print(name, "info", text),
        )
    except errors.DevstackError as error:
        printer.print(SELF, "error", str(error))
        return EXIT_FAILED
    return asyncio.run(_run(made, printer, quiet))


async def _run(running: stack.Stack, printer: logs.LogPrinter, quiet: bool) -> int:
    def say(name: str, text: str) -> None:
        printer.print(name, "info", text)

    # The stores' files are there for whoever needs them; here they would drown the services.
    names = () if quiet else tuple(service.name for service in running.services)
    followed = {name: running.logs[name] for name in names}
    async with _signals(running.kill_all) as asked:
        follower: asyncio.Task[None] | None = None
        try:
            follower = asyncio.create_task(logs.follow(followed, printer), name="follow logs")
            await _first(_serve(running, say), asked.wait())
            say(SELF, "stopping; once more to stop at once")
        except errors.DevstackError as error:
            printer.print(SELF, "error", str(error))
            return EXIT_FAILED
        finally:
            await running.stop()
            if follower is not None:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
    return 0


async def _serve(running: stack.Stack, say: stores.Say) -> None:
    await running.start()
    width = max((len(name) for name in running.addresses), default=0)
    lines = [f"{name:<{width}}  {address}" for name, address in running.addresses.items()]
    say(SELF, "\n".join(["everything is ready; Ctrl-C stops it", *lines]))
    await running.wait()


def run_stores(directory: pathlib.Path, store_ports: stores.StorePorts) -> int:
    """Runs the stores alone, for services that something else starts.

    Once both are ready, `stores.env` in the folder holds the variables the services need, in the
    form a shell reads; it is removed when the stores stop.

    Returns:
        0 after Ctrl-C or SIGTERM, 1 when a store died or could not be started.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_run_stores(directory, store_ports))


async def _run_stores(directory: pathlib.Path, store_ports: stores.StorePorts) -> int:
    printer = logs.LogPrinter(logs.console_for(sys.stdout))
    held = lock.FolderLock(directory)
    file = directory / STORES_FILE
    used: stores.Stores | None = None
    async with _signals(lambda: None) as asked:
        try:
            await held.acquire()
            file.unlink(missing_ok=True)
            used = stores.Stores(
                directory,
                catalogue.ALL,
                directory / "logs",
                say=lambda name, text: printer.print(name, "info", text),
                store_ports=store_ports,
                inherited=held.inherited,
            )
            await _first(_serve_stores(used, file), asked.wait())
        except errors.DevstackError as error:
            printer.print(SELF, "error", str(error))
            return EXIT_FAILED
        finally:
            if used is not None:
                file.unlink(missing_ok=True)
                await used.stop()
            held.release()
    return 0


async def _serve_stores(used: stores.Stores, file: pathlib.Path) -> None:
    await used.start()
    lines = [
        f"{service.prefix}{name}={shlex.quote(value)}\n"
        for service in catalogue.ALL
        for name, value in used.urls(service).items()
    ]
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(lines))
    new.replace(file)
    while True:
        for name, child in used.children.items():
            if not child.running:
                raise errors.ProcessDiedError(f"{name} ended; see {child.log}")
        await asyncio.sleep(stack.POLL_SECONDS)
