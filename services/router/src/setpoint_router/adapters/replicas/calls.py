"""One answer out of many replicas: the choice, and what happens when a replica does not answer."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.inference.v1 import inference_service_pb2
from setpoint_columns import proto as columns_proto
from setpoint_router import ports
from setpoint_router.adapters.replicas.fleet import Fleet, Placement
from setpoint_router.adapters.replicas.replica import Replica, is_answer, is_cancelled
from setpoint_router.domain.budget import RetryBudget
from setpoint_router.domain.plan import Plan
from setpoint_rpc import channel, context
from setpoint_runtime import errors

ATTEMPTS = 3
"""Most for one call, hedges aside."""

SAME_AGAIN_SECONDS = 0.02
"""Before a replica that failed is asked again because there is no other."""

MINIMUM_SECONDS = 0.001
"""A call with less time than this is not made."""

_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Codes of calls that may go well elsewhere: running a version is safe to repeat."""

_SILENT = (*_LOST, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Codes that speak against a replica when it did not send them itself."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How hard an answer is tried for."""

    retry_share: float = 0.2
    """Most repetitions at once, as a share of the calls in flight."""
    retry_minimum: int = 3
    """So many are always allowed."""
    hedge_seconds: float = 0.0
    """A call that takes longer is made a second time elsewhere; 0 for never."""
    hedge_quantile: float = 0.0
    """The same, with the time taken from this quantile of the version's last calls."""


class AbandonedError(Exception):
    """The call was given up because its replica has stalled."""


_Failure = grpc.aio.AioRpcError | AbandonedError

_Answered = tuple[Any, Replica]
"""An answer, and whose it is."""


class ReplicatedInference:
    """The inference service; implements `Inference`."""

    def __init__(self, fleet: Fleet, options: CallOptions) -> None:
        """Ask the replicas of a fleet."""
        self._fleet = fleet
        self._factor = fleet.options.load_factor
        self._patience = fleet.options.stall_seconds
        self._options = options
        self._is_hedging = options.hedge_seconds > 0 or options.hedge_quantile > 0
        self.budget = RetryBudget(options.retry_share, options.retry_minimum)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.retries = self.hedges = 0

    async def predict(
        self,
        plan: Plan,
        inputs: column_pb2.ColumnBatch,
        timeout_seconds: float,
        traceparent: str | None,
    ) -> ports.Answer:
        """Return the outputs for encoded inputs, as many rows as inputs.

        Raises:
            SetpointError: The version did not answer.
        """
        key = plan.route.content.model, plan.version.version
        placement = self._fleet.placement(key)
        rows = inputs.rows
        replica = placement.choose(rows, self._factor)
        question = _Question(
            placement,
            inference_service_pb2.PredictRequest(
                model_version=reference_pb2.ModelVersionReference(model=key[0], version=key[1]),
                inputs=inputs,
            ),
            rows,
            time.monotonic() + timeout_seconds,
            None if traceparent is None else ((context.TRACEPARENT_KEY, traceparent),),
            [replica],
        )
        budget = self.budget
        budget.active += 1
        try:
            if self._is_hedging:
                answer, by = await self._hedged(replica, question)
            else:
                answer, by = await self._ask(replica, question)
        except (grpc.aio.AioRpcError, AbandonedError) as failure:
            answer, by = await self._elsewhere(question, failure)
        finally:
            budget.active -= 1
        return ports.Answer(columns_proto.from_proto(answer.outputs, "outputs"), by.name)

    def replicas(self, plan: Plan) -> int:
        """Return among how many the calls of a version are divided now, at least 1."""
        key = plan.route.content.model, plan.version.version
        try:
            return len(self._fleet.placement(key).candidates)
        except errors.UnavailableError:
            # There is none. The calls themselves say so, and are recorded.
            return 1

    def is_ready(self, model: str, version: int) -> bool:
        """Say whether a replica would answer for a version now."""
        return self._fleet.is_ready((model, version))

    async def load(self, model: str, version: int) -> None:
        """Make a version ready on every replica that should hold it.

        One that is lost meanwhile gets no calls for the version before it has loaded it.

        Raises:
            SetpointError: It cannot be.
        """
        key = model, version
        holders = self._fleet.holders(key)
        if not holders:
            raise errors.UnavailableError(
                errors.Reason.UNAVAILABLE, "no replica of inference is known"
            )
        results = await asyncio.gather(
            *(each.load(key, self._fleet.options.lease_seconds) for each in holders),
            return_exceptions=True,
        )
        failed = [each for each in results if isinstance(each, BaseException)]
        for replica, result in zip(holders, results, strict=True):
            if result is None:
                self._fleet.note_loaded(key, replica)
        lost = [each for each in failed if _is_lost(each)]
        if len(failed) > len(lost):
            raise next(each for each in failed if not _is_lost(each))
        if len(lost) == len(holders):
            raise lost[0]

    # One attempt.

    async def _ask(self, replica: Replica, question: "_Question") -> _Answered:
        """Return the answer of one replica.

        Raises:
            AioRpcError: It did not answer, or with an error.
            AbandonedError: It has stalled.
        """
        seconds = question.deadline - time.monotonic()
        call = replica.predict(
            question.request, timeout=max(0.0, seconds), metadata=question.metadata
        )
        replica.calls.add(call)
        replica.rows += question.rows
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self._note_error(replica, error, seconds)
            raise
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            replica.failed += 1
            raise AbandonedError from None
        finally:
            replica.calls.discard(call)
            replica.rows -= question.rows
        replica.answered += 1
        replica.standing.failures = 0
        return answer, replica

    def _note_error(self, replica: Replica, error: grpc.aio.AioRpcError, seconds: float) -> None:
        """Hold an error against a replica if the way to it was broken, or it took all the time."""
        code = error.code()
        if is_answer(error) or code not in _SILENT:
            replica.answered += 1
            replica.standing.failures = 0
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds < self._patience:
            # So little time says more of the caller than of the replica.
            replica.failed += 1
        else:
            self._fleet.note_failure(replica)

    # Further attempts.

    async def _elsewhere(self, question: "_Question", failure: _Failure) -> _Answered:
        """Return the answer of another replica after one has failed.

        Raises:
            SetpointError: None answers, or one answers with an error.
        """
        for _ in range(ATTEMPTS - 1):
            if not _may_go_well_elsewhere(failure) or not await self._turn(question.deadline):
                break
            try:
                replica = await self._next(question, failure)
                if replica is None or question.deadline - time.monotonic() < MINIMUM_SECONDS:
                    break
                self.retries += 1
                return await self._ask(replica, question)
            except (grpc.aio.AioRpcError, AbandonedError) as again:
                # What a replica has said tells more than that another one was silent.
                if _is_answered(again) or not _is_answered(failure):
                    failure = again
            finally:
                self._give_back()
        raise _typed(failure) from failure

    async def _next(self, question: "_Question", failure: _Failure) -> Replica | None:
        """Return whom to ask next, None when nobody is worth it."""
        placement = self._fleet.placement(question.placement.key)
        replica = placement.another(question.tried, question.rows, self._factor)
        if replica is None and not _is_answered(failure):
            await asyncio.sleep(SAME_AGAIN_SECONDS)
            replica = self._fleet.placement(placement.key).choose(question.rows, self._factor)
        if replica is not None:
            question.tried.append(replica)
        return replica

    async def _turn(self, deadline: float) -> bool:
        """Wait until the budget allows a repetition; say whether it did in time."""
        if self.budget.take():
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It came at the very end, and nobody takes it.
                self._give_back()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def _give_back(self) -> None:
        self.budget.give_back()
        while self._waiting:
            if self._waiting[0].done():
                # Whoever waited has left.
                del self._waiting[0]
            elif self.budget.take():
                self._waiting.popleft().set_result(None)
            else:
                return

    # Hedging.

    async def _hedged(self, replica: Replica, question: "_Question") -> _Answered:
        """Return the first of two answers, the second one asked for after a while."""
        placement = question.placement
        delay = self._delay(placement)
        started = time.monotonic()
        if delay is None:
            answer = await self._ask(replica, question)
        else:
            answer = await self._raced(replica, question, delay)
        if self._options.hedge_quantile:
            placement.latencies.note(time.monotonic() - started, self._options.hedge_quantile)
        return answer

    async def _raced(self, replica: Replica, question: "_Question", delay: float) -> _Answered:
        racing = [asyncio.ensure_future(self._ask(replica, question))]
        is_hedged = False
        try:
            done, _ = await asyncio.wait(racing, timeout=delay)
            other = question.placement.another(question.tried, question.rows, self._factor)
            if not done and other is not None and self.budget.take():
                is_hedged = True
                self.hedges += 1
                question.tried.append(other)
                racing.append(asyncio.ensure_future(self._ask(other, question)))
            return await _first_good(racing)
        finally:
            if is_hedged:
                self._give_back()
            # Nobody waits for the end of the loser: the caller may be leaving at this very moment.
            for each in racing:
                each.add_done_callback(_forget)
                each.cancel()

    def _delay(self, placement: Placement) -> float | None:
        """Return when a call counts as slow, None when that is not known."""
        options = self._options
        if options.hedge_quantile and (measured := placement.latencies.value) is not None:
            return max(measured, options.hedge_seconds)
        return options.hedge_seconds or None


@dataclass(eq=False, slots=True)
class _Question:
    """A call, however often it is made."""

    placement: Placement
    request: Any
    rows: int
    deadline: float
    metadata: Any
    tried: list[Replica]


async def _first_good(racing: Sequence["asyncio.Future[_Answered]"]) -> _Answered:
    """Return the first answer; when all fail, raise the last failure."""
    pending = set(racing)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            if each.exception() is None:
                return each.result()
        if not pending:
            return done.pop().result()


def _forget(loser: "asyncio.Future[_Answered]") -> None:
    """Look at how a loser ended, so that its error counts as seen."""
    _ = loser.cancelled() or loser.exception()


def _may_go_well_elsewhere(failure: _Failure) -> bool:
    return isinstance(failure, AbandonedError) or failure.code() in _LOST


def _is_answered(failure: _Failure) -> bool:
    return isinstance(failure, grpc.aio.AioRpcError) and is_answer(failure)


def _is_lost(error: BaseException) -> bool:
    """Say whether a replica could not be asked, rather than that it refused."""
    return isinstance(error, errors.UnavailableError) and error.reason is errors.Reason.UNAVAILABLE


def _typed(failure: _Failure) -> errors.SetpointError:
    if isinstance(failure, AbandonedError):
        return errors.UnavailableError(
            errors.Reason.UNAVAILABLE, "the replica stopped answering and there was no other"
        )
    return channel.from_rpc_error(failure)
