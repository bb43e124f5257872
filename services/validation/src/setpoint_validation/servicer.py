"""The contract's methods: convert, call, convert."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_runtime import paging
from setpoint_validation import convert
from setpoint_validation.domain.suite import Snapshot
from setpoint_validation.service.batches import Batches
from setpoint_validation.service.feed import RuleFeed
from setpoint_validation.service.suites import Suites

_Context = grpc.aio.ServicerContext[Any, Any]


class ValidationServicer(validation_service_pb2_grpc.ValidationServiceServicer):
    """Serves `setpoint.validation.v1.ValidationService`."""

    def __init__(self, suites: Suites, batches: Batches, feed: RuleFeed) -> None:
        """Serve the use cases."""
        self._suites = suites
        self._batches = batches
        self._feed = feed
        self._pushed: tuple[Snapshot, pb.WatchRulesResponse] | None = None

    async def PutSuite(self, request: pb.PutSuiteRequest, context: _Context) -> pb.PutSuiteResponse:
        """Store a suite."""
        suite = request.suite
        stored, replayed = await self._suites.put(
            convert.request(request),
            suite.name,
            convert.rules_from_proto(suite),
            suite.feature_set,
            suite.description,
        )
        return pb.PutSuiteResponse(suite=convert.suite_to_proto(stored), replayed=replayed)

    async def GetSuite(self, request: pb.GetSuiteRequest, context: _Context) -> pb.GetSuiteResponse:
        """Return a suite."""
        found = await self._suites.get(request.name, request.version)
        return pb.GetSuiteResponse(suite=convert.suite_to_proto(found))

    async def ListSuites(
        self, request: pb.ListSuitesRequest, context: _Context
    ) -> pb.ListSuitesResponse:
        """Return a page of suites."""
        size = paging.size(request.page_size)
        key = paging.decode("ListSuites", (), request.page_token, (str,))
        page, has_more = await self._suites.list(str(key[0]) if key else "", size)
        token = paging.encode("ListSuites", (), (page[-1].name,)) if has_more else ""
        return pb.ListSuitesResponse(
            suites=[convert.suite_to_proto(suite) for suite in page], next_page_token=token
        )

    async def DeleteSuite(
        self, request: pb.DeleteSuiteRequest, context: _Context
    ) -> pb.DeleteSuiteResponse:
        """Delete a suite."""
        replayed = await self._suites.delete(convert.request(request), request.name)
        return pb.DeleteSuiteResponse(replayed=replayed)

    async def ValidateBatch(
        self, request_iterator: AsyncIterator[pb.ValidateBatchRequest], context: _Context
    ) -> pb.ValidateBatchResponse:
        """Judge a table."""
        header, pieces = await convert.batch_from_proto(request_iterator)
        run, replayed = await self._batches.validate(header, pieces)
        return pb.ValidateBatchResponse(run=convert.run_to_proto(run), replayed=replayed)

    async def GetValidationRun(
        self, request: pb.GetValidationRunRequest, context: _Context
    ) -> pb.GetValidationRunResponse:
        """Return a run."""
        found = await self._batches.get(request.run_id)
        return pb.GetValidationRunResponse(run=convert.run_to_proto(found))

    async def ListValidationRuns(
        self, request: pb.ListValidationRunsRequest, context: _Context
    ) -> pb.ListValidationRunsResponse:
        """Return a page of runs."""
        method, size = "ListValidationRuns", paging.size(request.page_size)
        key = paging.decode(method, (request.suite,), request.page_token, (int,))
        page, before = await self._batches.list(request.suite, int(key[0]) if key else None, size)
        token = "" if before is None else paging.encode(method, (request.suite,), (before,))
        return pb.ListValidationRunsResponse(
            runs=[convert.run_to_proto(run) for run in page], next_page_token=token
        )

    async def WatchRules(
        self, request: pb.WatchRulesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchRulesResponse]:
        """Stream the rules in force."""
        async with contextlib.aclosing(self._feed.watch()) as snapshots:
            async for snapshot in snapshots:
                yield self._message(snapshot)

    def _message(self, snapshot: Snapshot) -> pb.WatchRulesResponse:
        """Return the message of a snapshot, made once for all who watch."""
        if self._pushed is None or self._pushed[0] is not snapshot:
            self._pushed = (snapshot, convert.snapshot_to_proto(snapshot))
        return self._pushed[1]
