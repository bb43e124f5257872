"""Puts load on servers with h2load where it is installed, else with the generator of this folder."""

import asyncio
import json
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.load.support import children, figures, generator, http2

from setpoint_devstack import ports

H2LOAD = "h2load"
WORST_FAILURE_SHARE = 0.01
END_SECONDS = 30.0


class LoadError(Exception):
    """A load could not be put on a server, or was not answered."""


@dataclass(frozen=True, slots=True)
class Level:
    """How many ask at once."""

    connections: int
    streams: int
    """On each connection; HTTP/1.1 opens as many connections instead."""

    @property
    def callers(self) -> int:
        """Questions in flight."""
        return self.connections * self.streams


@dataclass(frozen=True, slots=True)
class Target:
    """A method of a running server, and what to ask it."""

    name: str
    protocol: generator.Protocol
    port: int
    path: str
    messages: Path
    """Framed as gRPC does; h2load sends the first one alone."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a load lasts."""

    warm_up_seconds: float
    seconds: float
    rate: float = 0.0
    """Questions a second of an open loop; 0 for a closed one."""


class Bundled:
    """Runs the generator of this folder."""

    description = "bundled generator (raw HTTP/2 and HTTP/1.1, messages in turn)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, target: Target, level: Level, times: Times) -> generator.Window:
        """Puts a load on a target.

        Raises:
            LoadError: The server did not answer.
        """
        is_json = target.protocol == "json"
        job = generator.Job(
            protocol=target.protocol,
            host=ports.LOOPBACK,
            port=target.port,
            path=target.path,
            messages=str(target.messages),
            connections=level.callers if is_json else level.connections,
            streams=1 if is_json else level.streams,
            warm_up_seconds=times.warm_up_seconds,
            seconds=times.seconds,
            headers=target.headers,
            rate=times.rate,
        )
        path = self._folder / "job.json"
        job.write(path)
        module = "tests.load.support.generator"
        printed = await _run([sys.executable, "-m", module, str(path)], times)
        found = generator.Window(**json.loads(printed))
        # Who is asked for more than it can do must refuse some.
        return found if times.rate else _checked(target, found)


class H2Load:
    """Runs h2load, of nghttp2."""

    description = "h2load (each run sends one and the same message)"

    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program

    async def put(self, target: Target, level: Level, times: Times) -> generator.Window:
        """Puts a load on a target.

        Raises:
            LoadError: The server did not answer.
        """
        body, log = self._folder / "h2load.body", self._folder / "h2load.log"
        first = http2.messages(target.messages.read_bytes())[0]
        body.write_bytes(first if target.protocol == "grpc" else http2.unframed(first))
        # It appends.
        log.unlink(missing_ok=True)
        printed = await _run(
            [self._program, *h2load_arguments(target, level, times, body, log)], times
        )
        found = read_h2load(printed, log.read_text(encoding="utf-8"), times.seconds)
        return _checked(target, found)


Generator = Bundled | H2Load


def choose(folder: Path, wanted: str | None = None) -> Generator:
    """Returns the generator to use.

    Args:
        folder: For its files.
        wanted: `h2load` or `bundled`; by default h2load where it is installed.

    Raises:
        LoadError: h2load is wanted and not installed.
    """
    program = shutil.which(H2LOAD)
    if wanted == "bundled" or (wanted is None and program is None):
        return Bundled(folder)
    if program is None:
        raise LoadError(f"{H2LOAD} is not installed")
    return H2Load(folder, program)


def h2load_arguments(
    target: Target, level: Level, times: Times, body: Path, log: Path
) -> list[str]:
    """Returns the command line of a load without the program."""
    is_json = target.protocol == "json"
    headers = {**target.headers, "content-type": "application/json"}
    if not is_json:
        deadline = f"{generator.DEADLINE_SECONDS}S"
        headers |= {
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-timeout": deadline,
        }
    return [
        *(["--h1"] if is_json else []),
        f"--clients={level.callers if is_json else level.connections}",
        f"--max-concurrent-streams={1 if is_json else level.streams}",
        "--threads=1",
        f"--warm-up-time={_milliseconds(times.warm_up_seconds)}",
        f"--duration={_milliseconds(times.seconds)}",
        f"--data={body}",
        f"--log-file={log}",
        *(f"--header={name}: {value}" for name, value in headers.items()),
        f"http://{ports.LOOPBACK}:{target.port}{target.path}",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{math.ceil(seconds * 1000)}ms"


_REQUESTS = re.compile(r"^requests: .*?(\d+) succeeded, (\d+) failed, (\d+) errored", re.MULTILINE)
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)


def read_h2load(printed: str, log: str, seconds: float) -> generator.Window:
    """Reads what h2load printed, and its log with a line for each answer.

    A failed gRPC call has status 200 and no message; the bytes of all messages tell that none came.

    Raises:
        LoadError: It is not what h2load prints, or nothing was answered.
    """
    requests, data = _REQUESTS.search(printed), _DATA.search(printed)
    if requests is None or data is None:
        raise LoadError(f"{H2LOAD} printed something unknown:\n{printed}")
    answered, failed, errored = (int(group) for group in requests.groups())
    if int(data.group(1)) < answered * http2.MESSAGE_HEADER:
        answered, failed = 0, failed + answered
    latencies = [int(line.split("\t")[2]) / 1000 for line in log.splitlines()] or [0.0]
    return generator.Window(
        answered=answered,
        failed=failed + errored,
        seconds=seconds,
        p50_ms=figures.percentile(latencies, 0.5),
        p99_ms=figures.percentile(latencies, 0.99),
        p999_ms=figures.percentile(latencies, 0.999),
    )


def _checked(target: Target, found: generator.Window) -> generator.Window:
    total = found.answered + found.failed
    if found.answered == 0 or found.failed > WORST_FAILURE_SHARE * total:
        raise LoadError(f"{target.name}: {found.failed} of {total} questions were not answered")
    return found


async def _run(command: Sequence[str], times: Times) -> str:
    """Runs a generator to its end and returns what it printed."""
    running = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=children.ROOT,
    )
    try:
        async with asyncio.timeout(times.warm_up_seconds + times.seconds + END_SECONDS):
            printed, complaints = await running.communicate()
    except BaseException:
        if running.returncode is None:
            running.kill()
            await running.wait()
        raise
    if running.returncode != 0:
        raise LoadError(f"{Path(command[0]).name} failed:\n{complaints.decode()}")
    return printed.decode()
