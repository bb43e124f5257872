"""Story 9: batches that are wrong as a whole are refused, batches with wrong rows lose those alone."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.support import parcels
from tests.support import world as worlds
from tests.support.refusals import refusal

from setpoint.common.v1 import column_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Columns, DataType, proto

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("still_answering")]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
Batch = router_service_pb2.PredictBatchRequest


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
    rows = _rows(
        depot=(DataType.STRING, [parcels.DEPOTS[0], None, "atlantis", "x" * 2048]),
        crew=(DataType.STRING, [*parcels.CREWS[:4]]),
        distance=(DataType.FLOAT64, [1.0] * 4),
        kind=(DataType.STRING, ["box", "elephant", None, "box"]),
        hour=(DataType.INT64, [1] * 4),
    )
    answer = await world.services.router.PredictBatch(_batch(rows), timeout=worlds.CALL_SECONDS)
    results = proto.from_proto(answer.results)
    assert results["status"].to_list() == [0, *[INVALID.value[0]] * 3]
    texts = results["error"].to_list()
    assert texts[0] is None
    assert texts[1].startswith("RULE_VIOLATED")
    assert texts[2].startswith("NULL_REFUSED")
    assert texts[3].startswith("TOO_LARGE")
    assert proto.from_proto(answer.outputs)["probability"].to_list()[0] is not None


async def test_predict_batch_refuses_unknown_route(world: worlds.World) -> None:
    """Proves the same reason as for one question."""
    batch = _batch(_rows())
    batch.route = "no-such-route"
    call = world.services.router.PredictBatch(batch, timeout=worlds.CALL_SECONDS)
    assert (await refusal(call)).reason == "ROUTE_NOT_FOUND"
