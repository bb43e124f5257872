"""Predictions one at a time, beside an empty echo and beside the design that a team starts with."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tests.load.support import (
    children,
    echo_server,
    figures,
    loads,
    plain_app,
    question,
    scale,
    trace_sink,
)
from tests.load.support import peers as others
from tests.load.support.benchmark import Options
from tests.load.support.environments import SetUpError
from tests.load.support.generator import Window
from tests.load.support.measures import Measure, Outcome

from setpoint_client import AsyncClient
from setpoint_devstack import ports
from setpoint_devstack import stack as stacks

TITLE = "Serving: 100 trees on 20 numbers, one prediction at a time"

FULL, GIVEN, ECHO, PLAIN = "full path", "features given", "empty echo", "FastAPI + joblib"
UNTRACED = "full path, not traced"
SIDES = (FULL, GIVEN, ECHO, PLAIN)

ALONE = loads.Level(1, 1)
LEVELS = (ALONE, loads.Level(4, 4), loads.Level(8, 8), loads.Level(16, 16))
TRACED_LEVEL = loads.Level(8, 8)

SERVICES = ("registry", "feature", "validation", "monitoring", "inference", "router")
PREDICT = "/setpoint.router.v1.RouterService/Predict"
NOT_SAMPLED = f"00-{'5e' * 16}-{'7a' * 8}-00"
"""A caller's trace that its caller decided not to keep; the router follows."""

ROUNDS, TIMES = 3, loads.Times(warm_up_seconds=0.4, seconds=2.0)
OPEN_TIMES = loads.Times(warm_up_seconds=1.0, seconds=8.0)
QUICK_ROUNDS, QUICK_TIMES = 1, loads.Times(warm_up_seconds=0.2, seconds=0.6)
SETTLE_SECONDS = 10.0
READY_TRIES = 12
"""Each takes about six seconds when there is no answer."""

OPEN_LEVEL = loads.Level(16, 1)
"""In an open loop connections alone are given."""

SHARES_OF_PEAK = (0.5, 0.8)
OVERLOAD, FLOOD = 2.0, 10.0
"""Times the load that the full path can carry."""

Found = dict[tuple[str, loads.Level], list[Window]]


@dataclass(slots=True)
class World:
    """What runs, and how to reach it."""

    trained: question.Question
    files: question.Files
    client: AsyncClient
    house: stacks.Stack
    targets: Mapping[str, loads.Target]
    pids: Sequence[int]
    sink: grpc.aio.Channel
    metrics_url: str

    async def traced(self) -> int:
        """Counts the predictions whose spans have arrived."""
        count: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        count = self.sink.unary_unary(trace_sink.PATH)
        return int(await count(b"", timeout=10.0))

    async def predicted(self) -> int:
        """Counts the predictions that the router has answered."""
        return await asyncio.to_thread(_read_predictions, self.metrics_url)


async def run(options: Options, console: Console) -> Outcome:
    """Trains, starts everything, measures in rounds, and compares."""
    generator = loads.choose(options.folder, options.generator)
    console.print("training, and starting the stack and what it is compared with …")
    async with _world(options.folder) as world:
        while await world.predicted() < scale.FEW:
            # With as many callers as ever, whose calls in flight take memory of their own.
            await generator.put(world.targets[FULL], LEVELS[-1], TIMES)
        await children.settle(world.pids, SETTLE_SECONDS)
        memory_before = scale.memory(world.house, "router")
        found, share = await _measure(world, generator, options, console)
        rows = measures(found, share)
        rows += await _open_loops(world, found, options)
        beside, remarks = await _peers(world, found, generator, options, console)
        rows += beside
        rows += await _scale(world, generator, options, memory_before, console)
    plain = (
        f"FastAPI {importlib.metadata.version('fastapi')} on uvicorn with {_http_parser()} and "
        "uvloop, one worker, OMP_NUM_THREADS=1 (by default its threads stand in each other's way)"
    )
    notes = [
        generator.description,
        plain,
        "traces of the stack go to a receiver on the same machine",
        *remarks,
    ]
    return Outcome(rows, notes)


@contextlib.asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    trained = await asyncio.to_thread(question.train)
    files = await asyncio.to_thread(question.write_files, trained, folder)
    sink_port, echo_port, plain_port = (ports.free_port() for _ in range(3))
    app = "tests.load.support.plain_app:create"
    uvicorn = f"-m uvicorn --factory {app} --port {plain_port} --log-level warning"
    plain = {plain_app.MODEL_VARIABLE: str(files.model), "OMP_NUM_THREADS": "1"}
    sink = "tests.load.support.trace_sink"
    echo = "tests.load.support.echo_server"
    async with contextlib.AsyncExitStack() as stack:
        beside = [
            children.running("sink", ["-m", sink, str(sink_port)], sink_port, folder),
            children.running("echo", ["-m", echo, str(echo_port)], echo_port, folder),
            children.running("plain", uvicorn.split(), plain_port, folder, plain),
        ]
        running = [await stack.enter_async_context(each) for each in beside]
        house = await stack.enter_async_context(_stack(folder, sink_port))
        addresses = {f"{name}_address": address for name, address in house.addresses.items()}
        client = AsyncClient(caller="bench", **addresses)  # type: ignore[arg-type]  # Keys are known at run time.
        await stack.enter_async_context(client)
        await question.publish(trained, client)
        channel = grpc.aio.insecure_channel(f"{ports.LOOPBACK}:{sink_port}")
        await stack.enter_async_context(channel)
        yield World(
            trained,
            files,
            client,
            house,
            targets=_targets(files, house, echo_port, plain_port),
            pids=[each.pid for each in running] + [house.pid(name) for name in house.logs],
            sink=channel,
            metrics_url=f"http://{ports.LOOPBACK}:"
            f"{house.environment['SETPOINT_ROUTER_METRICS_PORT']}/metrics",
        )


def _stack(folder: Path, sink_port: int) -> stacks.Stack:
    return stacks.Stack(
        folder / "stack",
        SERVICES,
        default_ports=False,
        dev=False,
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{ports.LOOPBACK}:{sink_port}",
            # A thousand versions are to stay loaded.
            "SETPOINT_INFERENCE_MAX_LOADED_BYTES": str(16 * 1024**3),
        },
    )


def _targets(
    files: question.Files, house: stacks.Stack, echo_port: int, plain_port: int
) -> dict[str, loads.Target]:
    router = int(house.addresses["router"].rpartition(":")[2])
    full = loads.Target(FULL, "grpc", router, PREDICT, files.full_path)
    return {
        FULL: full,
        GIVEN: replace(full, name=GIVEN, messages=files.features_given),
        UNTRACED: replace(full, name=UNTRACED, headers={"traceparent": NOT_SAMPLED}),
        ECHO: loads.Target(ECHO, "grpc", echo_port, echo_server.PATH, files.empty),
        PLAIN: loads.Target(PLAIN, "json", plain_port, plain_app.PATH, files.plain),
    }


async def _measure(
    world: World, generator: loads.Generator, options: Options, console: Console
) -> tuple[Found, float]:
    """Measures side after side in rounds; returns also the share of full paths that was traced."""
    rounds = QUICK_ROUNDS if options.is_quick else ROUNDS
    times = QUICK_TIMES if options.is_quick else TIMES
    turns = [(side, level) for level in LEVELS for side in SIDES]
    turns.append((UNTRACED, TRACED_LEVEL))
    found: Found = {turn: [] for turn in turns}
    predicted = traced = 0
    with _progress(console) as progress:
        task = progress.add_task("", total=rounds * len(turns))
        for side, level in turns * rounds:
            progress.update(task, description=f"{side}, {level.callers} at once")
            before = await world.predicted(), await world.traced()
            window = await generator.put(world.targets[side], level, times)
            found[side, level].append(window)
            # What was asked of the stack goes on after its answers; the next one must not pay for it.
            _ = await children.settle(world.pids, SETTLE_SECONDS)
            if side == FULL:
                predicted += await world.predicted() - before[0]
                traced += await world.traced() - before[1]
            progress.advance(task)
    return found, traced / max(1, predicted)


async def _open_loops(world: World, found: Found, options: Options) -> list[Measure]:
    """Asks at constant rates: below the peak for latencies, above it for what is left of it."""
    generator = loads.Bundled(options.folder)
    times = QUICK_TIMES if options.is_quick else OPEN_TIMES
    rows = []
    for side in (FULL, GIVEN):
        top = _middle_rate(found, side)
        for share in SHARES_OF_PEAK:
            window = await generator.put(
                world.targets[side], OPEN_LEVEL, replace(times, rate=share * top)
            )
            await children.settle(world.pids, SETTLE_SECONDS)
            rows += _latencies(side, share, window)
    top = _middle_rate(found, FULL)
    for factor in (OVERLOAD, FLOOD):
        window = await generator.put(
            world.targets[FULL], OPEN_LEVEL, replace(times, rate=factor * top)
        )
        await children.settle(world.pids, SETTLE_SECONDS)
        rows += _overload(factor, top, window)
    return rows


def _latencies(side: str, share: float, window: Window) -> list[Measure]:
    told = f"open loop at {share:.0%} of the peak, {window.failed} of {window.answered} failed"
    values = {"p50": window.p50_ms, "p99": window.p99_ms, "p99.9": window.p999_ms}
    return [
        Measure(f"{side}: {name} at {share:.0%} of the peak", value, "ms", None, "<=", told)
        for name, value in values.items()
    ]


def _overload(factor: float, top: float, window: Window) -> list[Measure]:
    told = (
        f"open loop; {window.rate:,.0f}/s answered, {window.failed / window.seconds:,.0f}/s refused"
    )
    if factor == OVERLOAD:
        name = f"{FULL}: goodput at {factor:g} times the peak / peak"
        return [Measure(name, window.rate / top, "1", 0.8, ">=", told)]
    name = f"{FULL}: p99 of refusals at {factor:g} times the peak"
    return [Measure(name, window.failed_p99_ms, "ms", 5.0, "<=", told)]


async def _peers(
    world: World, found: Found, generator: loads.Generator, options: Options, console: Console
) -> tuple[list[Measure], list[str]]:
    """Measures other servers at their best level, after ours; says which could not be set up."""
    rows, remarks = [], []
    rounds = QUICK_ROUNDS if options.is_quick else ROUNDS
    times = QUICK_TIMES if options.is_quick else TIMES
    for peer in others.PEERS:
        console.print(f"{peer.name}: {' '.join(peer.requirements)} …", highlight=False)
        try:
            async with others.running(
                peer, world.trained, world.files.model, options.folder
            ) as target:
                await _answers(target, generator)
                for level in LEVELS * rounds:
                    window = await generator.put(target, level, times)
                    found.setdefault((peer.name, level), []).append(window)
        except (SetUpError, RuntimeError, loads.LoadError) as error:
            remarks.append(f"{peer.name} was not measured: {error}")
            continue
        goal = 3.5 if peer is others.MLSERVER else None
        rows.append(_throughput_ratio(found, GIVEN, peer.name, goal))
        rows += _absolute(found, peer.name)
        remarks.append(f"{' '.join(peer.requirements[:1])}: {peer.settings}")
    return rows, remarks


async def _answers(target: loads.Target, generator: loads.Generator) -> None:
    """Waits until a server that listens also answers.

    Raises:
        LoadError: It does not.
    """
    for _ in range(READY_TRIES):
        with contextlib.suppress(loads.LoadError):
            await generator.put(target, ALONE, QUICK_TIMES)
            return
    raise loads.LoadError(f"{target.name} listens and does not answer")


async def _scale(
    world: World,
    generator: loads.Generator,
    options: Options,
    memory_before: int,
    console: Console,
) -> list[Measure]:
    if options.is_quick:
        return []
    console.print("a million predictions, then a thousand versions …")
    made = await world.predicted()
    await scale.predict_many(world.trained, world.client, world.house, max(0, scale.MANY - made))
    memory_after = scale.memory(world.house, "router")
    told = f"{memory_before / 2**20:.0f} MiB resident; {made:,} of the million one at a time"
    crowd = await scale.crowd(
        world.trained, world.client, generator, world.targets[GIVEN], options.folder, TIMES
    )
    one, many = figures.Spread.of(crowd.one).middle, figures.Spread.of(crowd.many).middle
    return [
        Measure(
            "router: memory after 1,000,000 predictions / after 10,000",
            memory_after / memory_before,
            "1",
            1.05,
            "<=",
            told,
        ),
        Measure(
            f"{GIVEN}: p50 with 1,000 versions over 200 routes / with 1",
            many / one,
            "1",
            1.1,
            "<=",
            f"one version: {one:.2f} ms, one caller",
        ),
    ]


def _middle_rate(found: Found, side: str) -> float:
    return figures.Spread.of(_rates(found, side, peak(found, side))).middle


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:40}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _read_predictions(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10.0) as answer:  # noqa: S310  # The URL is our own.
        return predictions(answer.read().decode())


def predictions(metrics: str) -> int:
    """Reads the number of predictions out of the router's metrics."""
    lines = metrics.splitlines()
    found = (line for line in lines if line.startswith("setpoint_router_predictions_total"))
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def _http_parser() -> str:
    return "httptools" if importlib.util.find_spec("httptools") else "h11"


def peak(found: Found, side: str) -> loads.Level:
    """Returns the level at which a side answers most in a second."""
    levels = [level for name, level in found if name == side]
    return max(levels, key=lambda level: figures.Spread.of(_rates(found, side, level)).middle)


def _rates(found: Found, side: str, level: loads.Level) -> list[float]:
    return [window.rate for window in found[side, level]]


def measures(found: Found, traced_share: float) -> list[Measure]:
    """Returns the rows of the table: the goals first, then what they are made of."""
    return [
        _throughput_ratio(found, GIVEN, ECHO, 0.75),
        _throughput_ratio(found, FULL, ECHO, 0.45),
        _throughput_ratio(found, FULL, PLAIN, 2.2),
        _latency_ratio(found, 1.2),
        _trace_cost(found, 0.85),
        *(row for side in SIDES for row in _absolute(found, side)),
        Measure(
            "full path: share of predictions whose span arrived",
            traced_share,
            "1",
            None,
            ">=",
            "predictions that the router counted",
        ),
    ]


def _throughput_ratio(found: Found, over: str, under: str, goal: float | None) -> Measure:
    above, below = peak(found, over), peak(found, under)
    spread = figures.ratio(_rates(found, over, above), _rates(found, under, below))
    rate = figures.Spread.of(_rates(found, under, below)).middle
    return Measure(
        f"{over} / {under}, throughput",
        spread.middle,
        "1",
        goal,
        ">=",
        f"{under}: {rate:,.0f}/s; {_rounds(spread)}",
    )


def _latency_ratio(found: Found, goal: float) -> Measure:
    full, plain = ([each.p50_ms for each in found[side, ALONE]] for side in (FULL, PLAIN))
    spread = figures.ratio(full, plain)
    return Measure(
        f"{FULL} / {PLAIN}, p50 at one caller",
        spread.middle,
        "1",
        goal,
        "<=",
        f"{PLAIN}: {figures.Spread.of(plain).middle:.2f} ms; {_rounds(spread)}",
    )


def _trace_cost(found: Found, goal: float) -> Measure:
    untraced = _rates(found, UNTRACED, TRACED_LEVEL)
    spread = figures.ratio(_rates(found, FULL, TRACED_LEVEL), untraced)
    rate = figures.Spread.of(untraced).middle
    return Measure(
        f"{FULL}, traced / not traced, throughput",
        spread.middle,
        "1",
        goal,
        ">=",
        f"not traced: {rate:,.0f}/s; {_rounds(spread)}",
    )


def _rounds(spread: figures.Spread) -> str:
    return f"rounds {spread.least:.2f} to {spread.greatest:.2f}"


def _absolute(found: Found, side: str) -> list[Measure]:
    best = peak(found, side)
    rate = figures.Spread.of(_rates(found, side, best))
    at_peak, alone = f"{best.callers} callers", "one caller"
    rows = [
        Measure(
            f"{side}: throughput",
            rate.middle,
            "1/s",
            None,
            ">=",
            f"{at_peak}, the best of {_levels()}",
        )
    ]
    for level, text in ((best, at_peak), (ALONE, alone)):
        for name in ("p50_ms", "p99_ms"):
            value = figures.Spread.of([getattr(each, name) for each in found[side, level]]).middle
            rows.append(
                Measure(f"{side}: {name[:3]}, {text}", value, "ms", None, "<=", "closed loop")
            )
    return rows


def _levels() -> str:
    return ", ".join(str(level.callers) for level in LEVELS)
