"""Whole tables, judged and remembered."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from concurrent import futures
from dataclasses import dataclass
from typing import TypeVar

from setpoint_columns import Columns
from setpoint_rules import RuleResult
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids, names
from setpoint_validation import ports
from setpoint_validation.domain import run as runs
from setpoint_validation.domain import suite as suites
from setpoint_validation.domain import text
from setpoint_validation.domain.table import Limits, Table

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Header:
    """What a table shall be judged by."""

    request_id: str
    suite: str
    suite_version: str
    """Empty means the latest."""
    source: str


@dataclass(frozen=True, slots=True)
class Options:
    """What tables may cost."""

    limits: Limits
    at_once: int
    """Tables received and judged at the same time."""
    piece_seconds: float
    """Longest wait for the next piece."""


class Batches:
    """Judges tables in threads of its own."""

    def __init__(
        self,
        suite_store: ports.SuiteStore,
        run_store: ports.RunStore,
        clock: clocks.Clock,
        options: Options,
    ) -> None:
        """Connect the parts."""
        self._suites = suite_store
        self._runs = run_store
        self._clock = clock
        self._options = options
        self._running = 0
        self._threads = futures.ThreadPoolExecutor(options.at_once, "batch")

    def close(self) -> None:
        """Let the threads go; what they still do is of no use to anybody."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def validate(
        self, header: Header, pieces: AsyncIterator[ports.Piece]
    ) -> tuple[runs.Run, bool]:
        """Judge a table and store the run; the flag says that the request was seen before.

        Raises:
            InvalidArgumentError: A field or a piece is wrong, or the table is too large.
            NotFoundError: SUITE_NOT_FOUND.
            AlreadyExistsError: REQUEST_ID_REUSED.
            ResourceExhaustedError: OVERLOADED, if too many tables are being judged.
        """
        self._check(header)
        if self._running >= self._options.at_once:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED, "too many tables at once", retry_after_seconds=1.0
            )
        self._running += 1
        try:
            return await self._validate(header, pieces)
        finally:
            self._running -= 1

    def _check(self, header: Header) -> None:
        if not header.request_id:
            rule = "must be a UUID chosen by the caller, in the first message"
            raise errors.invalid("request_id", "", rule, errors.Reason.MISSING_FIELD)
        if not ids.is_uuid(header.request_id.lower()):
            raise errors.invalid("request_id", header.request_id, "must be a UUID")
        names.check_name("suite", header.suite)
        text.check("source", header.source)

    async def _validate(
        self, header: Header, pieces: AsyncIterator[ports.Piece]
    ) -> tuple[runs.Run, bool]:
        suite = await self._suite(header)
        wanted = frozenset() if suite is None else runs.columns_of(suite.rules)
        table = await self._receive(Table(wanted, self._options.limits), pieces)
        request = await self._in_thread(lambda: _request(header, table))
        earlier = await self._runs.find_run(request)
        if earlier is not None:
            return earlier, True
        if suite is None:
            raise suites.not_found(header.suite, header.suite_version)
        columns = await self._in_thread(table.take)
        results = await self._judge(suite, columns)
        now = self._clock.now_us()
        run = runs.Run(
            ids.uuid7(now),
            suite.name,
            suite.version,
            header.source,
            runs.passes(results),
            columns.rows,
            results,
            now,
        )
        return await self._runs.add_run(request, run)

    async def _suite(self, header: Header) -> suites.Suite | None:
        """Return the suite; None when it is gone but the answer may be known from an earlier call."""
        version = header.suite_version
        try:
            if version and not suites.is_version(version):
                raise suites.not_found(header.suite, version)
            return await self._suites.get_live_suite(header.suite, version)
        except errors.NotFoundError:
            if not await self._runs.is_known(header.request_id):
                raise
            return None

    async def _receive(self, table: Table, pieces: AsyncIterator[ports.Piece]) -> Table:
        number = 0
        while (piece := await self._next(pieces)) is not None:
            await self._in_thread(functools.partial(_add, table, piece, number))
            number += 1
        return table

    async def _next(self, pieces: AsyncIterator[ports.Piece]) -> ports.Piece | None:
        scope = asyncio.timeout(self._options.piece_seconds)
        try:
            async with scope:
                return await anext(pieces, None)
        except TimeoutError:
            if not scope.expired():
                raise
            seconds = f"{self._options.piece_seconds:g} s"
            raise errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED, f"no piece of the table came for {seconds}"
            ) from None

    async def _judge(self, suite: suites.Suite, columns: Columns) -> tuple[RuleResult, ...]:
        given_up = threading.Event()
        try:
            return await self._in_thread(lambda: runs.judge(suite.rules, columns, given_up.is_set))
        finally:
            # Threads cannot be cancelled; this one looks here before the next rule.
            given_up.set()

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def get(self, run_id: str) -> runs.Run:
        """Return a stored run."""
        if not ids.is_uuid(run_id.lower()):
            raise runs.not_found(run_id)
        return await self._runs.get_run(run_id.lower())

    async def list(
        self, suite: str, before: int | None, limit: int
    ) -> tuple[list[runs.Run], int | None]:
        """Return runs of a suite, or of all, newest first, and where the next page begins."""
        if suite:
            names.check_name("suite", suite)
        return await self._runs.list_runs(suite, before, limit)


def _add(table: Table, piece: ports.Piece, number: int) -> None:
    table.add(piece(), f"requests[{number}].rows")


def _request(header: Header, table: Table) -> ports.Request:
    """Return what was asked for: by the version as given, so that a repetition is one whatever is latest by then."""
    asked = f"{header.suite}\0{header.suite_version}\0{header.source}\0"
    return ports.Request(header.request_id, asked.encode() + table.digest())
