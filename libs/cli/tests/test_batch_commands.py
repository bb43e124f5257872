"""``batch-predict`` against a batch service of the test's own that goes away."""

from collections.abc import Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.batch.v1 import batch_service_pb2, batch_service_pb2_grpc
from setpoint_cli import batch_commands, main
from setpoint_devstack import stack

RUNNER = CliRunner()
QUEUED = messages.BATCH_PREDICTION_STATE_QUEUED


class Batch(batch_service_pb2_grpc.BatchServiceServicer):
    """Takes a job; watches of it end with UNAVAILABLE, so many times, and then with its end."""

    def __init__(self) -> None:
        self.failures = 0
        self.watches = 0

    def StartBatchPrediction(
        self, request: Any, context: Any
    ) -> batch_service_pb2.StartBatchPredictionResponse:
        """Take a job."""
        return batch_service_pb2.StartBatchPredictionResponse(
            batch_prediction=messages.BatchPrediction(spec=request.spec, state=QUEUED), started=True
        )

    def WatchBatchPrediction(
        self, request: Any, context: Any
    ) -> Iterator[batch_service_pb2.WatchBatchPredictionResponse]:
        """Tell of its end, or go away."""
        self.watches += 1
        if self.watches <= self.failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        ended = messages.BatchPrediction(state=messages.BATCH_PREDICTION_STATE_SUCCEEDED)
        yield batch_service_pb2.WatchBatchPredictionResponse(batch_prediction=ended)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the command would have slept, instead of sleeping."""
    made: list[float] = []
    monkeypatch.setattr(batch_commands, "time", SimpleNamespace(sleep=made.append))
    return made


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    """A service that the command line takes for that of the running stack."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = Batch()  # type: ignore[abstract]  # what the command calls
    batch_service_pb2_grpc.add_BatchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr(stack, "running_addresses", lambda _: {"batch": f"127.0.0.1:{port}"})
    yield servicer
    server.stop(0).wait()


def test_watch_goes_on(batch: Batch, pauses: list[float]) -> None:
    """A watch that breaks is opened again after a pause, and the job is followed to its end."""
    batch.failures = 4
    shown = RUNNER.invoke(main.app, ["batch-predict", "/in.csv", "/out", "--model", "late"])
    assert shown.exit_code == 0, shown.output
    assert "is succeeded" in shown.output
    assert pauses
    assert set(pauses) == {batch_commands.PAUSE_SECONDS}


def test_watch_gives_up(batch: Batch, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is gone for good is not asked for ever, nor without a pause."""
    monkeypatch.setattr(batch_commands, "MAX_SILENCES", 3)
    batch.failures = 1_000
    shown = RUNNER.invoke(main.app, ["batch-predict", "/in.csv", "/out", "--model", "late"])
    assert shown.exit_code != 0
    assert pauses == [batch_commands.PAUSE_SECONDS] * 2
