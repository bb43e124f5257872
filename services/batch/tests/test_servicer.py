from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.batch.v1 import batch_service_pb2 as pb
from setpoint.batch.v1 import batch_service_pb2_grpc
from setpoint.common.v1 import column_pb2
from setpoint_batch import config, convert, testing, wiring
from setpoint_batch.domain.job import Format
from setpoint_rpc import channel
from setpoint_runtime import errors, ids
from setpoint_testkit.serving import Serve

AWAY = "127.0.0.1:1"


@pytest.fixture
async def stub(
    serve: Serve, migrated_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Any]:
    settings = config.BatchSettings(
        database_url=migrated_url("batch"),
        work_directory=tmp_path,
        feature_address=AWAY,
        registry_address=AWAY,
        validation_address=AWAY,
        url_prefixes=("/data",),
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(wiring.build, settings))
        opened = await stack.enter_async_context(channel.connect(server.address, client="test"))
        yield batch_service_pb2_grpc.BatchServiceStub(opened)


async def failing(call: Any) -> errors.SetpointError:
    """Await a call that fails; return its typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return channel.from_rpc_error(caught.value)


def asked(**changes: Any) -> messages.BatchPredictionSpec:
    return convert.spec_to_proto(testing.spec(**changes))


async def start(stub: Any, spec: messages.BatchPredictionSpec) -> errors.SetpointError:
    """Start a job that is refused."""
    request = pb.StartBatchPredictionRequest(request_id=ids.uuid7(), spec=spec)
    return await failing(stub.StartBatchPrediction(request))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "No Name"}, "spec.name"),
        ({"model": ""}, "spec.model"),
        ({"alias": "A"}, "spec.alias"),
        ({"event_time": -1}, "spec.event_time"),
        ({"version": -1}, "spec.version"),
        ({"input_url": ""}, "spec.input.url"),
        ({"input_url": "in.csv"}, "spec.input.url"),
        ({"output_url": ""}, "spec.output.url"),
        ({"output_url": "file:///data"}, "spec.output.url"),
        ({"output_url": "file:///data/in.parquet"}, "spec.output.url"),
        ({"output_url": "file:///data/o*t"}, "spec.output.url"),
        ({"kept_columns": ("a", "a")}, "spec.input.kept_columns"),
        ({"kept_columns": ("a\0",)}, "spec.input.kept_columns"),
        ({"kept_columns": ("a" * 257,)}, "spec.input.kept_columns"),
        ({"event_time_column": "\0"}, "spec.input.event_time_column"),
    ],
)
async def test_start_names_the_field(stub: Any, changes: dict[str, Any], field: str) -> None:
    """A field that is wrong is named, before anybody else is asked."""
    error = await start(stub, asked(**changes))
    assert isinstance(error, errors.InvalidArgumentError | errors.PermissionDeniedError)
    assert error.violations[0].field == field


async def test_start_needs_input(stub: Any) -> None:
    """A job without an input, or with rows that are none, is refused."""
    spec = asked()
    spec.input.ClearField("source")
    assert (await start(stub, spec)).violations[0].field == "spec.input"
    spec.input.rows.CopyFrom(
        column_pb2.ColumnBatch(
            rows=3, columns=[column_pb2.Column(name="a", dtype=column_pb2.DATA_TYPE_INT64)]
        )
    )
    assert isinstance(await start(stub, spec), errors.InvalidArgumentError)


async def test_start_refuses_places(stub: Any) -> None:
    """Files outside of what is allowed are neither read nor written."""
    for changes in ({"input_url": "file:///etc/passwd"}, {"output_url": "s3://bucket/out"}):
        error = await start(stub, asked(**changes))
        assert isinstance(error, errors.PermissionDeniedError)
        assert error.reason is errors.Reason.URL_REFUSED


async def test_start_without_registry(stub: Any) -> None:
    """A job whose version cannot be told now is not started."""
    assert isinstance(await start(stub, asked()), errors.UnavailableError)
    listed = await stub.ListBatchPredictions(pb.ListBatchPredictionsRequest())
    assert list(listed.batch_predictions) == []


async def test_unknown_job(stub: Any) -> None:
    """A job that does not exist is not found, and an id that is none is named."""
    methods: list[tuple[Any, Any]] = [
        (stub.GetBatchPrediction, pb.GetBatchPredictionRequest),
        (stub.CancelBatchPrediction, pb.CancelBatchPredictionRequest),
    ]
    for method, request in methods:
        more = {"request_id": ids.uuid7()} if method == stub.CancelBatchPrediction else {}
        error = await failing(method(request(batch_prediction_id=ids.uuid7(), **more)))
        assert error.reason is errors.Reason.BATCH_PREDICTION_NOT_FOUND
        error = await failing(method(request(batch_prediction_id="x", **more)))
        assert error.violations[0].field == "batch_prediction_id"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": 4},
        {"alias": "challenger"},
        {
            "event_time": 0,
            "event_time_column": "time",
            "kept_columns": ("a", "b"),
            "with_inputs": True,
            "input_format": Format.CSV,
            "output_format": Format.ARROW,
        },
    ],
)
def test_spec_round_trip(changes: dict[str, Any]) -> None:
    """What is asked for survives the way to a message and back."""
    spec = testing.spec(**changes)
    assert convert.spec_from_proto(convert.spec_to_proto(spec)) == (spec, b"")
