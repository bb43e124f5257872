"""Story 8: whatever callers send, they are told what is wrong with it, and the servers go on."""

import asyncio
import hashlib
import pickle
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # no annotations
    health_pb2,
    health_pb2_grpc,
)
from tests.support import parcels
from tests.support import world as worlds
from tests.support.refusals import Refusal, refusal

from setpoint.common.v1 import column_pb2, reference_pb2, value_pb2
from setpoint.inference.v1 import inference_service_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_columns import Columns, DataType, proto
from setpoint_runtime import ids

pytestmark = pytest.mark.timeout(300)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING_MODEL = "no-such-model"
Request = router_service_pb2.PredictRequest
Batch = router_service_pb2.PredictBatchRequest


@pytest_asyncio.fixture(autouse=True, scope="module")
async def still_answering(world: worlds.World) -> AsyncIterator[None]:
    """After all of it each server says that it serves, and a good question is answered."""
    yield
    for name, address in world.stack.addresses.items():
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(
                health_pb2.HealthCheckRequest(), timeout=worlds.CALL_SECONDS
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    await world.predict(parcels.Day(world.days).parcels[0])


def _text(value: str) -> value_pb2.Value:
    return value_pb2.Value(string_value=value)


def _number(value: float) -> value_pb2.Value:
    return value_pb2.Value(double_value=value)


NULL = value_pb2.Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)


def _good() -> Request:
    """Makes a question that is answered."""
    return Request(
        route=parcels.ROUTE,
        assignment_key="somebody",
        entities={"depot": _text(parcels.DEPOTS[0]), "crew": _text(parcels.CREWS[0])},
        inputs={
            "distance": _number(120.0),
            "kind": _text("box"),
            "hour": value_pb2.Value(int_value=3),
        },
    )


def _with_input(name: str, value: value_pb2.Value) -> Request:
    request = _good()
    request.inputs[name].CopyFrom(value)
    return request


def _without(part: str, name: str) -> Request:
    request = _good()
    del getattr(request, part)[name]
    return request


def _with_key(name: str, value: value_pb2.Value) -> Request:
    request = _good()
    request.entities[name].CopyFrom(value)
    return request


def _at(**fields: Any) -> Request:
    request = _good()
    request.MergeFrom(Request(**fields))
    return request


def _all_given() -> Request:
    """Makes a question without keys that brings its inputs, all but one."""
    request = _good()
    request.entities.clear()
    request.inputs["queue"].CopyFrom(_number(1.0))
    request.inputs["staff"].CopyFrom(_number(1.0))
    return request


QUESTIONS: dict[str, tuple[Callable[[], Request], str, str]] = {
    "missing key": (
        lambda: _without("entities", "depot"),
        "ENTITY_KEY_MISSING",
        'entities["depot"]',
    ),
    "unknown key": (
        lambda: _with_key("planet", _text("mars")),
        "UNKNOWN_FIELD",
        'entities["planet"]',
    ),
    "key of another type": (
        lambda: _with_key("depot", _number(1.5)),
        "WRONG_TYPE",
        'entities["depot"]',
    ),
    "missing input": (
        lambda: _without("inputs", "distance"),
        "MISSING_FIELD",
        'inputs["distance"]',
    ),
    "missing input of those that are all given": (
        _all_given,
        "MISSING_FIELD",
        'inputs["sick_share"]',
    ),
    "unknown input": (
        lambda: _with_input("colour", _text("red")),
        "UNKNOWN_FIELD",
        'inputs["colour"]',
    ),
    "text for a number": (
        lambda: _with_input("distance", _text("far")),
        "WRONG_TYPE",
        'inputs["distance"]',
    ),
    "fraction for an integer": (
        lambda: _with_input("hour", _number(1.5)),
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "number for a text": (
        lambda: _with_input("kind", _number(1.0)),
        "WRONG_TYPE",
        'inputs["kind"]',
    ),
    "null for a text": (
        lambda: _with_input("kind", NULL),
        "NULL_REFUSED",
        'inputs["kind"]',
    ),
    "null for an integer": (
        lambda: _with_input("hour", NULL),
        "NULL_REFUSED",
        'inputs["hour"]',
    ),
    "value without a kind": (
        lambda: _with_input("kind", value_pb2.Value()),
        "MISSING_FIELD",
        'inputs["kind"]',
    ),
    "text of a megabyte": (
        lambda: _with_input("kind", _text("x" * 2**20)),
        "TOO_LARGE",
        'inputs["kind"]',
    ),
    "key of a megabyte": (
        lambda: _with_key("depot", _text("x" * 2**20)),
        "TOO_LARGE",
        'entities["depot"]',
    ),
    "assignment key of a megabyte": (
        lambda: _at(assignment_key="x" * 2**20),
        "TOO_LARGE",
        "assignment_key",
    ),
    "time before 1970": (lambda: _at(event_time=-1), "INVALID_FIELD", "event_time"),
    "value that a rule refuses": (
        lambda: _with_input("distance", _number(-1.0)),
        "RULE_VIOLATED",
        'inputs["distance"]',
    ),
    "level that a rule does not know": (
        lambda: _with_input("kind", _text("elephant")),
        "RULE_VIOLATED",
        'inputs["kind"]',
    ),
}


async def _predict(world: worlds.World, request: Request) -> Refusal:
    return await refusal(world.services.router.Predict(request, timeout=worlds.CALL_SECONDS))


@pytest.mark.parametrize("case", QUESTIONS)
async def test_predict_names_what_is_wrong(world: worlds.World, case: str) -> None:
    """Proves that a bad question is refused with a reason and the name of its field."""
    make, reason, field = QUESTIONS[case]
    told = await _predict(world, make())
    assert (told.code, told.reason) == (INVALID, reason), told.text
    assert field in told.fields, told


async def test_predict_refuses_unknown_route(world: worlds.World) -> None:
    """Proves that a route nobody made is named."""
    told = await _predict(world, Request(route="no-such-route", entities=_good().entities))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND")
    assert "no-such-route" in told.text


async def test_predict_answers_about_unknown_entity(world: worlds.World) -> None:
    """Proves that an entity nobody has heard of, or none at all, is answered and flagged."""
    for key in (_text("atlantis"), NULL):
        answer = await world.services.router.Predict(
            _with_key("depot", key), timeout=worlds.CALL_SECONDS
        )
        kinds = router_service_pb2.DegradationKind
        flags = {
            f"{kinds.Name(each.kind).removeprefix('DEGRADATION_KIND_')}:{each.subject}"
            for each in answer.degradations
        }
        assert flags == {"FEATURE_MISSING:queue", "FEATURE_MISSING:staff"}
        assert 0 <= answer.outputs["probability"].double_value <= 1


async def test_predict_refuses_message_of_five_megabytes(world: worlds.World) -> None:
    """Proves that the transport turns away what no server would read, without closing the door."""
    address = world.stack.addresses["router"]
    unlimited = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, unlimited) as channel:
        router = router_service_pb2_grpc.RouterServiceStub(channel)
        large = _with_input("kind", _text("x" * 5 * 2**20))
        told = await refusal(router.Predict(large, timeout=worlds.CALL_SECONDS))
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger" in told.text
        await router.Predict(_good(), timeout=worlds.CALL_SECONDS)


async def test_predict_ends_at_an_expired_deadline(world: worlds.World) -> None:
    """Proves that a call without time is over in time, and others are answered."""
    calls = [world.services.router.Predict(_good(), timeout=0.0005) for _ in range(20)]
    told = await asyncio.gather(*(refusal(call) for call in calls))
    assert {each.code for each in told} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    await world.services.router.Predict(_good(), timeout=worlds.CALL_SECONDS)


# Batches.


def _rows(**changes: tuple[DataType, list[Any]]) -> Columns:
    columns: dict[str, tuple[DataType, list[Any]]] = {
        "depot": (DataType.STRING, [parcels.DEPOTS[0], "atlantis", None]),
        "crew": (DataType.STRING, [*parcels.CREWS[:3]]),
        "distance": (DataType.FLOAT64, [1.0, 2.0, 3.0]),
        "kind": (DataType.STRING, ["box", "letter", "pallet"]),
        "hour": (DataType.INT64, [1, 2, 3]),
        **changes,
    }
    return Columns.from_dict({name: each for name, each in columns.items() if each[1]})


def _batch(rows: Columns, **fields: Any) -> Batch:
    return Batch(route=parcels.ROUTE, rows=proto.to_proto(rows), **fields)


def _broken(break_column: Callable[[column_pb2.Column], None]) -> Batch:
    """Makes a batch with a column whose buffers do not fit."""
    batch = _batch(_rows())
    [column] = [each for each in batch.rows.columns if each.name == "kind"]
    break_column(column)
    return batch


def _shorten(column: column_pb2.Column) -> None:
    column.offsets = column.offsets[:-4]


def _point_beyond(column: column_pb2.Column) -> None:
    column.offsets = column.offsets[:-4] + (2**30).to_bytes(4, "little")


def _break_text(column: column_pb2.Column) -> None:
    column.values = b"\xff" * len(column.values)


def _make_typeless(column: column_pb2.Column) -> None:
    column.dtype = column_pb2.DATA_TYPE_UNSPECIFIED


def _twice() -> Batch:
    batch = _batch(_rows())
    batch.rows.columns.append(batch.rows.columns[0])
    return batch


BATCHES: dict[str, tuple[Callable[[], Batch], str, str]] = {
    "column of another type": (
        lambda: _batch(_rows(distance=(DataType.STRING, ["far", "near", "here"]))),
        "WRONG_TYPE",
        "distance",
    ),
    "missing column": (
        lambda: _batch(_rows(kind=(DataType.STRING, []))),
        "MISSING_FIELD",
        "kind",
    ),
    "ragged columns": (lambda: _broken(_shorten), "MALFORMED_COLUMNS", "rows.columns[3]"),
    "offsets beyond the values": (
        lambda: _broken(_point_beyond),
        "MALFORMED_COLUMNS",
        "rows.columns[3]",
    ),
    "text that is not UTF-8": (
        lambda: _broken(_break_text),
        "MALFORMED_COLUMNS",
        "rows.columns[3]",
    ),
    "column without a type": (
        lambda: _broken(_make_typeless),
        "MALFORMED_COLUMNS",
        "rows.columns[3]",
    ),
    "column twice": (_twice, "MALFORMED_COLUMNS", "depot"),
    "unknown column to assign by": (
        lambda: _batch(_rows(), assignment_key_column="nobody"),
        "MISSING_FIELD",
        "nobody",
    ),
}


@pytest.mark.parametrize("case", BATCHES)
async def test_predict_batch_names_what_is_wrong(world: worlds.World, case: str) -> None:
    """Proves that a batch which is wrong as a whole is refused, naming the column."""
    make, reason, column = BATCHES[case]
    call = world.services.router.PredictBatch(make(), timeout=worlds.CALL_SECONDS)
    told = await refusal(call)
    assert (told.code, told.reason) == (INVALID, reason), told.text
    assert any(column in field for field in told.fields) or column in told.text, told


async def test_predict_batch_fails_bad_rows_alone(world: worlds.World) -> None:
    """Proves that rows which a rule refuses fail by themselves, and the others are answered."""
    rows = _rows(kind=(DataType.STRING, ["box", "elephant", None]))
    answer = await world.services.router.PredictBatch(_batch(rows), timeout=worlds.CALL_SECONDS)
    results = proto.from_proto(answer.results)
    assert results["status"].to_list() == [0, INVALID.value[0], INVALID.value[0]]
    texts = results["error"].to_list()
    assert texts[0] is None
    assert texts[1].startswith("RULE_VIOLATED")
    assert texts[2].startswith("NULL_REFUSED")
    assert proto.from_proto(answer.outputs)["probability"].to_list()[0] is not None


async def test_predict_batch_refuses_unknown_route(world: worlds.World) -> None:
    """Proves the same reason as for one question."""
    batch = _batch(_rows())
    batch.route = "no-such-route"
    call = world.services.router.PredictBatch(batch, timeout=worlds.CALL_SECONDS)
    assert (await refusal(call)).reason == "ROUTE_NOT_FOUND"


# Models.


async def test_route_refuses_unknown_model(world: worlds.World) -> None:
    """Proves that neither a route nor a version of a model nobody made can be had."""
    route = route_pb2.Route(
        name="to-nowhere",
        model=MISSING_MODEL,
        weights=[route_pb2.VersionWeight(version=1, basis_points=10_000)],
    )
    create = router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route)
    told = await refusal(world.services.router.CreateRoute(create, timeout=worlds.CALL_SECONDS))
    assert told.code is grpc.StatusCode.NOT_FOUND
    assert told.reason == "MODEL_NOT_FOUND"
    assert MISSING_MODEL in told.text
    version = reference_pb2.ModelVersionReference(model=parcels.MODEL, version=999)
    read = registry_service_pb2.GetModelVersionRequest(model_version=version)
    told = await refusal(world.services.registry.GetModelVersion(read, timeout=worlds.CALL_SECONDS))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")
    run = inference_service_pb2.PredictRequest(
        model_version=version, inputs=proto.to_proto(_rows())
    )
    told = await refusal(world.services.inference.Predict(run, timeout=worlds.CALL_SECONDS))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")


class Bomb:
    """Would create a file if it were ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _upload(data: bytes) -> list[registry_service_pb2.UploadArtifactRequest]:
    header = registry_service_pb2.ArtifactHeader(
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
    )
    return [
        registry_service_pb2.UploadArtifactRequest(header=header),
        registry_service_pb2.UploadArtifactRequest(data=data),
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
async def test_registry_refuses_pickle_by_name(
    world: worlds.World, protocol: int, tmp_path: Any
) -> None:
    """Proves that a pickle given as a model is called one, and is neither stored nor run."""
    trap = tmp_path / "exploded"
    data = pickle.dumps(Bomb(str(trap)), protocol)
    told = await refusal(
        world.services.registry.UploadArtifact(iter(_upload(data)), timeout=worlds.CALL_SECONDS)
    )
    assert (told.code, told.reason) == (INVALID, "EXECUTABLE_ARTIFACT"), told.text
    assert "pickle" in told.text
    assert not trap.exists()
    stored = registry_service_pb2.DownloadArtifactRequest(digest=hashlib.sha256(data).hexdigest())
    call = world.services.registry.DownloadArtifact(stored, timeout=worlds.CALL_SECONDS)
    assert (await refusal(_drained(call))).reason == "ARTIFACT_NOT_FOUND"


async def _drained(call: AsyncIterable[Any]) -> None:
    async for _ in call:
        pass


async def test_registry_refuses_what_is_no_model(world: worlds.World) -> None:
    """Proves that bytes which are no ONNX, and bytes that are not those announced, are refused."""
    upload = world.services.registry.UploadArtifact
    told = await refusal(
        upload(iter(_upload(b"what a lovely model" * 100)), timeout=worlds.CALL_SECONDS)
    )
    assert (told.code, told.reason) == (INVALID, "INVALID_ARTIFACT"), told.text
    [header, _] = _upload(b"announced")
    other = registry_service_pb2.UploadArtifactRequest(data=b"delivered")
    told = await refusal(upload(iter([header, other]), timeout=worlds.CALL_SECONDS))
    assert told.code is INVALID
    assert told.reason in ("DIGEST_MISMATCH", "INVALID_ARTIFACT"), told.text
