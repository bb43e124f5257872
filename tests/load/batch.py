"""Whole tables: the router's PredictBatch and batch jobs, beside onnxruntime in this process."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt
import onnxruntime
import polars as pl
import psutil
from rich.console import Console
from sklearn import linear_model
from tests.load.support import children, figures, question
from tests.load.support.benchmark import Options
from tests.load.support.measures import Measure, Outcome

from setpoint.batch.v1 import batch_prediction_pb2, batch_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_client import AsyncClient
from setpoint_columns import interop
from setpoint_columns import proto as column_messages
from setpoint_devstack import stack as stacks
from setpoint_retraining.training import encoding
from setpoint_runtime import ids

TITLE = "Batches: 100 trees and a logistic regression on 20 numbers"

TREES, LINEAR = question.NAME, "account_linear"
SERVICES = ("registry", "feature", "validation", "monitoring", "inference", "router", "batch")
PREDICT_BATCH = "/setpoint.router.v1.RouterService/PredictBatch"
BATCH_ROWS = 10_000
CALLERS = (1, 2, 4)
ROUNDS, SECONDS = 3, 2.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5
JOB_ROWS, QUICK_JOB_ROWS = 1_000_000, 50_000
ENTITY_JOB_ROWS, QUICK_ENTITY_JOB_ROWS = 100_000, 10_000
CALL_SECONDS = 60.0
JOB_SECONDS = 600.0
SETTLE_SECONDS, QUICK_SETTLE_SECONDS = 20.0, 0.5
TOLERANCE = 1e-4

Rates = dict[str, list[float]]

GIVEN, ENTITIES = "inputs given", "by entity"
SIDES = (f"{TREES} {GIVEN}", f"{LINEAR} {GIVEN}", f"{TREES} {ENTITIES}")
IN_PROCESS = "onnxruntime in-process"


@dataclass(slots=True)
class World:
    """What runs, and what is asked."""

    client: AsyncClient
    router: grpc.aio.Channel
    house: stacks.Stack
    folder: Path
    numbers: npt.NDArray[np.float32]
    sessions: dict[str, Any]
    messages: dict[str, bytes]

    @property
    def pids(self) -> list[int]:
        """The processes of the stack."""
        return [self.house.pid(name) for name in self.house.logs]


async def run(options: Options, console: Console) -> Outcome:
    """Trains, starts the stack, measures in rounds, and compares."""
    rounds = QUICK_ROUNDS if options.is_quick else ROUNDS
    seconds = QUICK_SECONDS if options.is_quick else SECONDS
    console.print("training, and starting the stack …")
    async with _world(options.folder) as world:
        found: Rates = {}
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}: PredictBatch …")
            settle = QUICK_SETTLE_SECONDS if options.is_quick else SETTLE_SECONDS
            await _measure_calls(world, found, seconds, settle)
        jobs = []
        for form in (GIVEN, ENTITIES):
            console.print(f"a batch job, {form} …")
            jobs.append(await _measure_job(world, form, is_quick=options.is_quick))
    versions = f"onnxruntime {onnxruntime.__version__} with its own choice of threads"
    return Outcome(measures(found, jobs), [versions, "callers in this process, on the same cores"])


@contextlib.asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    trained = await asyncio.to_thread(question.train)
    linear = await asyncio.to_thread(_fit_linear, trained)
    async with contextlib.AsyncExitStack() as stack:
        house = stacks.Stack(
            folder / "stack",
            SERVICES,
            default_ports=False,
            dev=False,
            # What a job takes of a machine that has nothing else to do.
            environment={"SETPOINT_BATCH_NICENESS": "0"},
        )
        await stack.enter_async_context(house)
        addresses: dict[str, Any] = {f"{name}_address": at for name, at in house.addresses.items()}
        client = await stack.enter_async_context(AsyncClient(caller="bench", **addresses))
        await question.publish(trained, client)
        await question.publish_beside(LINEAR, replace(trained, artifact=linear), client)
        channel = grpc.aio.insecure_channel(house.addresses["router"])
        await stack.enter_async_context(channel)
        artifacts = {TREES: trained.artifact, LINEAR: linear}
        world = World(
            client,
            channel,
            house,
            folder,
            trained.numbers,
            {
                name: onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
                for name, data in artifacts.items()
            },
            _messages(trained),
        )
        await _check(world)
        yield world


def _fit_linear(trained: question.Question) -> bytes:
    label = trained.numbers[:, :6].sum(axis=1) > 0
    fitted = linear_model.LogisticRegression(max_iter=1_000).fit(trained.numbers, label)
    return encoding.to_onnx(fitted, encoding.Encoding.learn(question.FEATURES, {}))


def _messages(trained: question.Question) -> dict[str, bytes]:
    """Make one request for each side, serialised ahead: callers cost as little as may be."""
    given = pl.DataFrame(trained.numbers[:BATCH_ROWS], schema=list(question.FEATURES))
    keys = pl.DataFrame({question.KEY: np.arange(BATCH_ROWS) % question.ACCOUNTS})
    asked = {
        SIDES[0]: (TREES, given),
        SIDES[1]: (LINEAR, given),
        SIDES[2]: (TREES, keys),
    }
    return {
        side: router_service_pb2.PredictBatchRequest(
            route=route, rows=column_messages.to_proto(interop.from_polars(frame))
        ).SerializeToString()
        for side, (route, frame) in asked.items()
    }


async def _check(world: World) -> None:
    """Make sure that every side answers every row as onnxruntime does."""
    for side in SIDES:
        reply = router_service_pb2.PredictBatchResponse.FromString(await _call(world, side))
        results = column_messages.from_proto(reply.results)
        if (results["status"].values != 0).any():
            raise AssertionError(f"{side}: {results['error'].to_list()[:3]}")
        model = side.split()[0]
        found = column_messages.from_proto(reply.outputs)[question.SCORE].values
        expected = _in_process(world, model)
        if np.abs(found - expected).max() > TOLERANCE:
            raise AssertionError(f"{side} differs from onnxruntime")


def _in_process(world: World, model: str) -> npt.NDArray[np.float32]:
    rows = {encoding.NUMBERS: world.numbers[:BATCH_ROWS]}
    answer: npt.NDArray[np.float32] = world.sessions[model].run(None, rows)[0][:, 1]
    return answer


async def _call(world: World, side: str) -> bytes:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = world.router.unary_unary(PREDICT_BATCH)
    return await method(world.messages[side], timeout=CALL_SECONDS)


async def _measure_calls(world: World, found: Rates, seconds: float, settle: float) -> None:
    """Measure every side once, in turn, beside onnxruntime on the same rows."""
    for model in (TREES, LINEAR):
        ask = functools.partial(asyncio.to_thread, _in_process, world, model)
        rate = await _rate(ask, 1, seconds)
        found.setdefault(f"{model} {IN_PROCESS}", []).append(rate)
    for side in SIDES:
        for callers in CALLERS:
            rate = await _rate(functools.partial(_call, world, side), callers, seconds)
            found.setdefault(f"{side}, {callers} callers", []).append(rate)
            # Records go on after the answers; the next side must not pay for that.
            _ = await children.settle(world.pids, settle)


async def _rate(ask: Callable[[], Awaitable[Any]], callers: int, seconds: float) -> float:
    """Return rows a second, when so many ask again as soon as they are answered."""
    await ask()
    began = time.perf_counter()
    batches = 0

    async def go_on() -> None:
        nonlocal batches
        while time.perf_counter() - began < seconds:
            await ask()
            batches += 1

    await asyncio.gather(*(go_on() for _ in range(callers)))
    return batches * BATCH_ROWS / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Job:
    """How a batch job went."""

    form: str
    rows: int
    rate: float
    in_process: float
    peak_bytes: int


async def _measure_job(world: World, form: str, *, is_quick: bool) -> Job:
    """Run a batch job, from its start to its committed output."""
    if form == GIVEN:
        rows = QUICK_JOB_ROWS if is_quick else JOB_ROWS
        table = np.resize(world.numbers, (rows, world.numbers.shape[1]))
        frame = pl.DataFrame(table, schema=list(question.FEATURES))
    else:
        rows = QUICK_ENTITY_JOB_ROWS if is_quick else ENTITY_JOB_ROWS
        frame = pl.DataFrame({question.KEY: np.arange(rows) % question.ACCOUNTS})
        table = np.resize(world.numbers, (min(rows, 100_000), world.numbers.shape[1]))
    path = world.folder / f"{form.replace(' ', '-')}.parquet"
    frame.write_parquet(path, row_group_size=50_000)
    # The first job starts the worker processes, which later ones find there.
    await _job(world, path, "warm-up")
    watch = asyncio.create_task(_peak(world.house.pid("batch")))
    began = time.perf_counter()
    await _job(world, path, "measured")
    seconds = time.perf_counter() - began
    watch.cancel()
    peak = (await asyncio.gather(watch, return_exceptions=True))[0]
    began = time.perf_counter()
    for start in range(0, len(table), BATCH_ROWS):
        world.sessions[TREES].run(None, {encoding.NUMBERS: table[start : start + BATCH_ROWS]})
    in_process = len(table) / (time.perf_counter() - began)
    return Job(form, rows, rows / seconds, in_process, peak if isinstance(peak, int) else 0)


async def _job(world: World, path: Path, name: str) -> None:
    name = f"{name}-{path.stem}"
    request = batch_service_pb2.StartBatchPredictionRequest(
        request_id=ids.uuid7(),
        spec=batch_prediction_pb2.BatchPredictionSpec(
            name=name,
            model=TREES,
            version=1,
            input=batch_prediction_pb2.BatchInput(url=str(path)),
            output=batch_prediction_pb2.BatchOutput(url=str(world.folder / "output" / name)),
        ),
    )
    batch = world.client.stubs.batch
    job = (await batch.StartBatchPrediction(request, timeout=CALL_SECONDS)).batch_prediction
    watched = batch_service_pb2.WatchBatchPredictionRequest(
        batch_prediction_id=job.batch_prediction_id
    )
    async for seen in batch.WatchBatchPrediction(watched, timeout=JOB_SECONDS):
        job = seen.batch_prediction
    succeeded = batch_prediction_pb2.BATCH_PREDICTION_STATE_SUCCEEDED
    if job.state != succeeded or job.progress.rows_failed:
        raise AssertionError(f"the job did not go well: {job}")


async def _peak(pid: int) -> int:
    """Watch a process with its children until cancelled; return their greatest memory."""
    peak = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            found = psutil.Process(pid)
            total = 0
            for each in (found, *found.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += each.memory_info().rss
            peak = max(peak, total)
            await asyncio.sleep(0.05)
    return peak


def best(found: Rates, side: str) -> tuple[str, list[float]]:
    """Returns the level at which a side answers most rows, with its rounds."""
    levels = {name: rates for name, rates in found.items() if name.startswith(f"{side}, ")}
    name = max(levels, key=lambda each: figures.Spread.of(levels[each]).middle)
    return name.removeprefix(f"{side}, "), levels[name]


def measures(found: Rates, jobs: Sequence[Job]) -> list[Measure]:
    """Returns the rows of the table: the goals first."""
    rows = []
    level, given = best(found, SIDES[0])
    below = found[f"{TREES} {IN_PROCESS}"]
    spread = figures.ratio(given, below)
    rate = figures.Spread.of(below).middle
    rows.append(
        Measure(
            "PredictBatch rows/s / onnxruntime in-process on the same rows (10,000-row batches)",
            spread.middle,
            "1",
            0.7,
            ">=",
            f"onnxruntime: {rate:,.0f} rows/s; {level}; {_rounds(spread)}",
        )
    )
    for side, name, goal in (
        (SIDES[1], "PredictBatch, logistic regression", 1_000_000.0),
        (SIDES[2], "PredictBatch by entity with features from Valkey", 100_000.0),
        (SIDES[0], "PredictBatch, 100 trees", None),
    ):
        level, rates = best(found, side)
        spread = figures.Spread.of(rates)
        rows.append(
            Measure(name, spread.middle, "rows/s", goal, ">=", f"{level}; {_range(spread)}")
        )
    linear = figures.Spread.of(found[f"{LINEAR} {IN_PROCESS}"])
    rows.append(
        Measure(
            "onnxruntime in-process, logistic regression",
            linear.middle,
            "rows/s",
            None,
            ">=",
            _range(linear),
        )
    )
    for job in jobs:
        rows += _of_job(job)
    return rows


def _of_job(job: Job) -> list[Measure]:
    under = f"{job.rows:,} rows from Parquet to Parquet, start and commit included"
    return [
        Measure(f"batch job, {job.form}", job.rate, "rows/s", None, ">=", under),
        Measure(
            f"batch job, {job.form} / onnxruntime in-process",
            job.rate / job.in_process,
            "1",
            None,
            ">=",
            f"onnxruntime: {job.in_process:,.0f} rows/s",
        ),
        Measure(
            f"batch job, {job.form}: peak memory of the service and its processes",
            job.peak_bytes / 1e6,
            "MB",
            None,
            "<=",
            f"{job.rows:,} rows",
        ),
    ]


def _rounds(spread: figures.Spread) -> str:
    return f"rounds {spread.least:.2f} to {spread.greatest:.2f}"


def _range(spread: figures.Spread) -> str:
    return f"rounds {spread.least:,.0f} to {spread.greatest:,.0f}"
