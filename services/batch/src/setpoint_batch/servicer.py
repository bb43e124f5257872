"""The RPCs: convert, call, convert."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from setpoint.batch.v1 import batch_service_pb2 as pb
from setpoint.batch.v1 import batch_service_pb2_grpc
from setpoint_batch import convert, ports
from setpoint_batch.service.jobs import Jobs
from setpoint_db import idempotency
from setpoint_runtime import names, paging

_LIST = "ListBatchPredictions"

Context = grpc.aio.ServicerContext[Any, Any]


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Implements setpoint.batch.v1.BatchService."""

    def __init__(self, jobs: Jobs, store: ports.Store) -> None:
        """Take the services."""
        self._jobs = jobs
        self._store = store

    async def StartBatchPrediction(
        self, request: pb.StartBatchPredictionRequest, context: Context
    ) -> pb.StartBatchPredictionResponse:
        """Start a job."""
        spec, rows = convert.spec_from_proto(request.spec)
        fingerprint = idempotency.fingerprint(
            "StartBatchPrediction",
            request.spec.SerializeToString(deterministic=True),
            str(request.rerun),
        )
        job, started, replayed = await self._jobs.start(
            request.request_id, fingerprint, spec, rows, rerun=request.rerun
        )
        return pb.StartBatchPredictionResponse(
            batch_prediction=convert.job_to_proto(job), started=started, replayed=replayed
        )

    async def GetBatchPrediction(
        self, request: pb.GetBatchPredictionRequest, context: Context
    ) -> pb.GetBatchPredictionResponse:
        """Read a job."""
        job = await self._store.job(convert.job_id(request.batch_prediction_id))
        return pb.GetBatchPredictionResponse(batch_prediction=convert.job_to_proto(job))

    async def ListBatchPredictions(
        self, request: pb.ListBatchPredictionsRequest, context: Context
    ) -> pb.ListBatchPredictionsResponse:
        """List jobs."""
        size, asked = paging.size(request.page_size), (request.name,)
        name = names.check_name("name", request.name) if request.name else None
        token = paging.decode(_LIST, asked, request.page_token, (uuid.UUID,))
        # One more than asked for tells whether there is a further page.
        found = await self._store.jobs(name, str(token[0]) if token else None, size + 1)
        jobs, more = found[:size], len(found) > size
        return pb.ListBatchPredictionsResponse(
            batch_predictions=[convert.job_to_proto(each) for each in jobs],
            next_page_token=paging.encode(_LIST, asked, (jobs[-1].job_id,)) if more else "",
        )

    async def WatchBatchPrediction(
        self, request: pb.WatchBatchPredictionRequest, context: Context
    ) -> AsyncIterator[pb.WatchBatchPredictionResponse]:
        """Send a job now and after each change."""
        async for job in self._jobs.watch(convert.job_id(request.batch_prediction_id)):
            yield pb.WatchBatchPredictionResponse(batch_prediction=convert.job_to_proto(job))

    async def CancelBatchPrediction(
        self, request: pb.CancelBatchPredictionRequest, context: Context
    ) -> pb.CancelBatchPredictionResponse:
        """Cancel a job."""
        job, replayed = await self._jobs.cancel(
            request.request_id,
            idempotency.fingerprint("CancelBatchPrediction", request.batch_prediction_id),
            convert.job_id(request.batch_prediction_id),
        )
        return pb.CancelBatchPredictionResponse(
            batch_prediction=convert.job_to_proto(job), replayed=replayed
        )
