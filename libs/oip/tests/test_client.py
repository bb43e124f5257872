"""The client asks another server in columns and takes nothing that breaks the protocol."""

import grpc.aio
import numpy as np
import pytest

from setpoint_columns import Column, Columns, DataType
from setpoint_oip.client import ModelDescription, OipClient
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.layout import Held
from setpoint_oip.parameters import Value
from setpoint_oip.tensors import Tensor
from setpoint_oip.testing import FakePeer
from setpoint_runtime import errors

Peer = tuple[FakePeer, grpc.aio.Channel]

ROWS = Columns.from_dict(
    {
        "a": (DataType.FLOAT64, [1.0, 2.0, None]),
        "b": (DataType.INT64, [3, 4, 5]),
        "kind": (DataType.STRING, ["box", "Zoë", ""]),
    }
)
INPUTS = [Held("X", DataType.FLOAT32, ("a", "b")), Held("kind", DataType.STRING, ("kind",))]
OUTPUTS = [Held("sum", DataType.FLOAT64, ("sum",)), Held("p", DataType.FLOAT32, ("p0", "p1"))]


async def describe(made: FakePeer, opened: grpc.aio.Channel, matrix: str) -> ModelDescription:
    """Describes a model that adds up its numbers."""
    made.describe("inputs", "X", matrix, -1, 2)
    made.describe("inputs", "kind", "BYTES", -1)
    made.describe("outputs", "sum", "FP32", -1)
    made.describe("outputs", "p", "FP32", -1, 2)

    def model(given: dict[str, Tensor]) -> list[Tensor]:
        matrix = given["X"].array.astype("f4")
        lengths = np.array([len(each) for each in given["kind"].array.tolist()], "f4")
        total = matrix.sum(axis=1) + lengths
        return [
            Tensor("p", DATATYPES["FP32"], np.column_stack([total, -total])),
            Tensor("sum", DATATYPES["FP32"], total),
        ]

    made.model = model
    return await OipClient(opened).metadata("sums")


async def test_metadata_is_read(peer: Peer) -> None:
    """Proves that names, datatypes and shapes arrive."""
    found = await describe(*peer, "FP16")
    assert (found.name, found.versions, found.platform) == ("sums", ("7",), "test")
    assert [(each.name, each.datatype.name, each.shape) for each in found.inputs] == [
        ("X", "FP16", (-1, 2)),
        ("kind", "BYTES", (-1,)),
    ]


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("matrix", ["FP16", "BF16", "FP32", "FP64"])
async def test_columns_come_back_as_columns(peer: Peer, matrix: str, is_raw: bool) -> None:
    """Proves that columns go out in the model's datatypes and ranks, and come back in the caller's."""
    made, opened = peer
    made.is_raw = is_raw
    description = await describe(*peer, matrix)
    found = await OipClient(opened).infer_columns(description, ROWS, INPUTS, OUTPUTS)
    assert [*found.names] == ["sum", "p0", "p1"]
    assert found["sum"].dtype is DataType.FLOAT64
    assert found["sum"].to_list()[:2] == [7.0, 10.0]
    assert np.isnan(found["p1"].to_list()[2])
    [request] = made.requests
    assert [(each.datatype, list(each.shape)) for each in request.inputs] == [
        (matrix, [3, 2]),
        ("BYTES", [3]),
    ]
    assert [each.name for each in request.outputs] == ["sum", "p"]


async def test_whole_numbers_must_fit(peer: Peer) -> None:
    """Proves that a value that the model's datatype cannot hold is refused before it is sent."""
    made, opened = peer
    description = await describe(*peer, "INT8")
    rows = Columns.from_dict(
        {"a": (DataType.INT64, [1]), "b": (DataType.INT64, [300]), "kind": (DataType.STRING, [""])}
    )
    specs = [Held("X", DataType.INT64, ("a", "b")), INPUTS[1]]
    with pytest.raises(errors.InvalidArgumentError, match="300 does not fit INT8"):
        await OipClient(opened).infer_columns(description, rows, specs, OUTPUTS)
    assert made.requests == []


async def test_nulls_and_gaps_are_refused(peer: Peer) -> None:
    """Proves that a null where there is no NaN, a missing column and an unknown tensor are named."""
    description = await describe(*peer, "FP32")
    ask = OipClient(peer[1]).infer_columns
    nothing = ROWS.with_column(Column.from_list("kind", [None, "", ""], DataType.STRING))
    with pytest.raises(errors.InvalidArgumentError, match=r"inputs.kind\[0\]: None must not"):
        await ask(description, nothing, INPUTS, OUTPUTS)
    with pytest.raises(errors.InvalidArgumentError, match=r"inputs\.kind: None must be given"):
        await ask(description, ROWS.select(["a", "b"]), INPUTS, OUTPUTS)
    with pytest.raises(errors.InvalidArgumentError, match="'Y' is no tensor"):
        await ask(description, ROWS, [Held("Y", DataType.FLOAT32, ("a",))], OUTPUTS)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "the output 'sum' is missing"),
        (
            [
                Tensor("sum", DATATYPES["FP32"], np.ones(2, "f4")),
                Tensor("p", DATATYPES["FP32"], np.ones((3, 2), "f4")),
            ],
            r"the output 'sum' is \[2\], not \[3, 1\]",
        ),
        (
            [
                Tensor("sum", DATATYPES["BYTES"], np.array([b"1", b"2", b"3"], object)),
                Tensor("p", DATATYPES["FP32"], np.ones((3, 2), "f4")),
            ],
            "the output 'sum': .* cannot become FLOAT64",
        ),
    ],
)
async def test_answer_that_breaks_the_protocol_is_an_error(
    peer: Peer, answer: list[Tensor], said: str
) -> None:
    """Proves that a wrong answer becomes an error, never a wrong column."""
    description = await describe(*peer, "FP32")
    peer[0].model = lambda given: answer
    with pytest.raises(errors.InternalError, match=said) as raised:
        await OipClient(peer[1]).infer_columns(description, ROWS, INPUTS, OUTPUTS)
    assert raised.value.reason is errors.Reason.INFERENCE_FAILED


async def test_readiness_and_parameters_travel(peer: Peer) -> None:
    """Proves that versions, ids and parameters go both ways, and unknown models are not ready."""
    made, opened = peer
    asker = OipClient(opened)
    assert await asker.is_ready("sums", "7")
    assert not await asker.is_ready("sums", "8")
    assert not await asker.is_ready("unknown")
    sent = [Tensor("x", DATATYPES["INT64"], np.array([1, 2]))]
    given: dict[str, Value] = {"flag": True, "count": 3, "big": 1 << 63, "part": 0.5, "text": "Zoë"}
    answer = await asker.infer("sums", sent, version="7", request_id="ab", given=given)
    assert answer.version == "7"
    assert answer.outputs["x"].array.tolist() == [1, 2]
    [request] = made.requests
    assert (request.id, request.model_version) == ("ab", "7")
    kinds = {name: each.WhichOneof("parameter_choice") for name, each in request.parameters.items()}
    assert kinds == {
        "flag": "bool_param",
        "count": "int64_param",
        "big": "uint64_param",
        "part": "double_param",
        "text": "string_param",
    }
