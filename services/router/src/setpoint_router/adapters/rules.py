"""The rules that validation pushes; implements the port `Checks`.

The last good snapshot goes on while validation is away, also over a restart of the router: it lies
in a file beside the spool.
"""

import asyncio
import logging
import random
from pathlib import Path

import grpc.aio

from setpoint.validation.v1 import (
    validation_service_pb2,
    validation_service_pb2_grpc,
)
from setpoint_columns import Columns
from setpoint_router import ports
from setpoint_rules import CompiledRules, compile
from setpoint_rules import proto as rules_proto
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class RuleBook:
    """Compiled rules by feature set."""

    def __init__(self, *, is_wanted: bool, path: Path | None = None) -> None:
        """Begin without rules, or with the last good ones.

        Args:
            is_wanted: Whether there is a validation service to get rules from.
            path: Where the last snapshot is kept.
        """
        self._rules: dict[str, tuple[CompiledRules, ...]] | None = None
        self._is_wanted = is_wanted
        self._path = path
        self.revision = -1
        if is_wanted and path is not None:
            self._read(path)

    @property
    def is_expected(self) -> bool:
        """Whether rules should have been received but were not."""
        return self._is_wanted and self._rules is None

    def judge(self, feature_set: str, columns: Columns) -> ports.Verdict | None:
        """Return what the rules of a feature set say; None when it has none."""
        if self._rules is None:
            return None
        suites = self._rules.get(feature_set)
        if not suites:
            return None
        rejected: dict[int, errors.InvalidArgumentError] = {}
        flagged: list[tuple[int, str]] = []
        for suite in suites:
            verdict = suite.check_rows(columns)
            if verdict.ok:
                continue
            for row, failure in verdict.rejections.items():
                rejected.setdefault(row, failure.error(f'inputs["{failure.column}"]'))
            for row, failures in verdict.flags.items():
                flagged.extend((row, failure.rule_id) for failure in failures)
        return ports.Verdict(list(rejected.items()), flagged)

    def put(self, snapshot: validation_service_pb2.WatchRulesResponse) -> None:
        """Bring a snapshot into force.

        Raises:
            InvalidArgumentError: A rule of it cannot be read; the one before stays in force.
        """
        compiled: dict[str, list[CompiledRules]] = {}
        for suite in snapshot.suites:
            rules = rules_proto.rules_from_proto(suite.rules, f"suites[{suite.name}].rules")
            compiled.setdefault(suite.feature_set, []).append(compile(rules))
        self._rules = {name: tuple(suites) for name, suites in compiled.items()}
        self.revision = snapshot.revision

    def keep(self, snapshot: validation_service_pb2.WatchRulesResponse) -> None:
        """Write a snapshot down for the next start."""
        if self._path is None:
            return
        scratch = self._path.with_name(self._path.name + ".new")
        try:
            scratch.write_bytes(snapshot.SerializeToString())
            scratch.replace(self._path)
        except OSError:
            _LOGGER.warning("the rules could not be kept in %s", self._path, exc_info=True)

    def _read(self, path: Path) -> None:
        try:
            self.put(validation_service_pb2.WatchRulesResponse.FromString(path.read_bytes()))
        except FileNotFoundError:
            return
        except Exception:
            # Whatever the file holds, validation sends the rules again.
            _LOGGER.warning("the last good rules in %s cannot be used", path, exc_info=True)


class RuleWatch:
    """Keeps a rule book up to date."""

    def __init__(self, to_service: grpc.aio.Channel, book: RuleBook) -> None:
        self._stub = validation_service_pb2_grpc.ValidationServiceStub(to_service)
        self._book = book

    async def run(self) -> None:
        """Watch until cancelled; a broken stream is opened again."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                if await self._watch():
                    pause = FIRST_PAUSE_SECONDS
            except grpc.aio.AioRpcError as error:
                _LOGGER.info("rules are not being watched: %s %s", error.code(), error.details())
            # Routers that lost the same service do not all come back at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 — no secret.
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _watch(self) -> bool:
        """Take snapshots for as long as the stream lasts; say whether there was one."""
        call = self._stub.WatchRules(validation_service_pb2.WatchRulesRequest())
        was_there = False
        try:
            async for snapshot in call:
                was_there = True
                self._take(snapshot)
                await asyncio.to_thread(self._book.keep, snapshot)
        finally:
            # A stream that is merely dropped goes on at the server.
            call.cancel()
        return was_there

    def _take(self, snapshot: validation_service_pb2.WatchRulesResponse) -> None:
        try:
            self._book.put(snapshot)
        except errors.InvalidArgumentError:
            _LOGGER.exception("rules revision %d cannot be used", snapshot.revision)
        else:
            _LOGGER.info(
                "rules revision %d in force, %d suites", snapshot.revision, len(snapshot.suites)
            )
