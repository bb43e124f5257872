"""Asks any server that speaks the protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
import numpy as np

from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import FLOATS, DataType
from setpoint_oip import datatypes, description, layout, parameters, tensors
from setpoint_oip.datatypes import BYTES, DATATYPES, AnyArray, Datatype
from setpoint_oip.parameters import Value
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor
from setpoint_rpc import channel
from setpoint_runtime import errors

DEFAULT_SECONDS: Final = 5.0
"""Time for a call when nothing else is said; what is left of the call being served bounds it too."""


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """What a server says of a tensor."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    """-1 where the request decides."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a server says of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says."""

    version: str
    """The version that answered, as the server names it."""
    outputs: Mapping[str, Tensor]
    parameters: Mapping[str, Value | None] = field(default_factory=dict)


class OipClient:
    """A client of one server, over a channel that its owner closes.

    Every method raises the typed error of a failed call, and InternalError (INFERENCE_FAILED) for
    an answer that the protocol does not allow.
    """

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Ask over a channel, such as `setpoint_rpc.channel.connect` opens."""
        self._stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(opened)
        self._describe = description.caller(opened)

    async def is_ready(
        self, model: str, version: str = "", *, timeout_seconds: float = DEFAULT_SECONDS
    ) -> bool:
        """Say whether a version answers now; an unknown one does not."""
        request = pb.ModelReadyRequest(name=model, version=version)
        try:
            answer = await _called(self._stub.ModelReady, request, timeout_seconds)
        except errors.NotFoundError:
            return False
        return bool(answer.ready)

    async def metadata(
        self, model: str, version: str = "", *, timeout_seconds: float = DEFAULT_SECONDS
    ) -> ModelDescription:
        """Return what a server says of a model."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        answer = await _called(self._describe, request, timeout_seconds)
        return ModelDescription(
            answer.name,
            tuple(answer.versions),
            answer.platform,
            tuple(_described(each) for each in answer.inputs),
            tuple(_described(each) for each in answer.outputs),
        )

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        given: Mapping[str, Value] | None = None,
        timeout_seconds: float = DEFAULT_SECONDS,
    ) -> Answer:
        """Return what a model says.

        Args:
            model: Name of the model.
            inputs: What it takes.
            version: Version; empty lets the server choose.
            outputs: Names of the wanted outputs; empty means all.
            request_id: Sent as `id`.
            given: Parameters by name.
            timeout_seconds: Longest time.
        """
        request = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
        tensors.fill_request(request, inputs)
        for name in outputs:
            request.outputs.add(name=name)
        parameters.fill(request.parameters, given or {})
        response = await _called(self._stub.ModelInfer, request, timeout_seconds)
        try:
            found = {each.name: each for each in tensors.of_response(response)}
        except errors.InvalidArgumentError as error:
            raise _broken(model, error.message) from error
        for name in outputs:
            if name not in found:
                raise _broken(model, f"the output {name!r} is missing")
        return Answer(response.model_version, found, parameters.read(response.parameters))

    async def infer_columns(
        self,
        described: ModelDescription,
        columns: Columns,
        inputs: Sequence[layout.Spec],
        outputs: Sequence[layout.Spec],
        *,
        version: str = "",
        timeout_seconds: float = DEFAULT_SECONDS,
    ) -> Columns:
        """Return the columns that a model says for columns, as many rows as there are.

        Args:
            described: What the server says of the model; decides on datatypes and ranks.
            columns: At least every column of the inputs.
            inputs: Which columns each of the model's tensors holds.
            outputs: The same of what it gives.
            version: Version; empty lets the server choose.
            timeout_seconds: Longest time.

        Raises:
            InvalidArgumentError: A column is missing or does not fit, or the model has no such
                tensor.
        """
        by_name = {each.name: each for each in described.inputs}
        sent = [_tensor(columns, spec, by_name.get(spec.name)) for spec in inputs]
        names = [spec.name for spec in outputs]
        answer = await self.infer(
            described.name, sent, version=version, outputs=names, timeout_seconds=timeout_seconds
        )
        made: list[Column] = []
        for spec in outputs:
            made += _columns(described.name, answer.outputs[spec.name], spec, columns.rows)
        return Columns(columns.rows, made)


async def _called(method: Any, request: Any, timeout_seconds: float) -> Any:
    try:
        return await method(request, timeout=timeout_seconds)
    except grpc.aio.AioRpcError as error:
        raise channel.from_rpc_error(error) from error


def _described(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorDescription:
    datatype = DATATYPES.get(tensor.datatype.removeprefix("TYPE_"))
    if datatype is None:
        raise _broken(tensor.name, f"{tensor.datatype[:80]!r} is no datatype")
    return TensorDescription(tensor.name, datatype, tuple(tensor.shape))


def _tensor(columns: Columns, spec: layout.Spec, wanted: TensorDescription | None) -> Tensor:
    """Return a tensor of columns in the datatype and rank that the model takes."""
    if wanted is None:
        rule = "is no tensor that the model takes"
        raise errors.invalid("inputs", spec.name, rule, errors.Reason.UNKNOWN_FIELD)
    by_name = columns.by_name
    absent = [name for name in spec.columns if name not in by_name]
    if absent:
        reason = errors.Reason.MISSING_FIELD
        raise errors.invalid(f"inputs.{absent[0]}", None, "must be given", reason)
    values = {name: _values(by_name[name], spec.dtype) for name in spec.columns}
    [made] = layout.gathered([spec], values, columns.rows)
    array = made.array.reshape(-1) if len(wanted.shape) == 1 else made.array
    return Tensor(spec.name, wanted.datatype, _fitted(spec, array, wanted.datatype))


def _values(column: Column, dtype: DataType) -> AnyArray:
    """Return the values of a column in a type; nulls are NaN, and refused where there is none."""
    nulls = column.null_mask()
    if nulls is not None and dtype not in FLOATS:
        row = int(np.flatnonzero(nulls)[0])
        field, rule = f"inputs.{column.name}[{row}]", "must not be null: the model takes none"
        raise errors.invalid(field, None, rule, errors.Reason.NULL_REFUSED)
    return column.rename(f"inputs.{column.name}"[:256]).cast(dtype).to_numpy()


def _fitted(spec: layout.Spec, array: AnyArray, datatype: Datatype) -> AnyArray:
    """Return an array in a datatype which holds its values exactly, floats rounded."""
    if (array.dtype == object) != (datatype is BYTES):
        rule = f"must be {datatype.name}"
        raise errors.invalid(f"inputs.{spec.name}", spec.dtype.name, rule, errors.Reason.WRONG_TYPE)
    if datatype is BYTES:
        return array
    if datatype is datatypes.BF16:
        return array.astype("<f4")
    kind = np.dtype(bool) if datatype is datatypes.BOOL else datatype.wire
    with np.errstate(all="ignore"):
        fitted = array.astype(kind, copy=False)
    is_float = kind.kind == "f" and array.dtype.kind == "f"
    lost = np.isinf(fitted) & ~np.isinf(array) if is_float else fitted != array
    if lost.any():
        value, rule = array[lost][0].item(), f"does not fit {datatype.name}"
        raise errors.invalid(f"inputs.{spec.name}", value, rule, errors.Reason.WRONG_TYPE)
    return fitted


def _columns(model: str, tensor: Tensor, spec: layout.Spec, rows: int) -> list[Column]:
    """Return the columns of an output, in the types that the caller knows."""
    array, width = tensor.array, len(spec.columns)
    if array.shape == (rows,) and width == 1:
        array = array.reshape(rows, 1)
    if array.shape != (rows, width):
        text = f"the output {spec.name!r} is {list(array.shape)}, not [{rows}, {width}]"
        raise _broken(model, text)
    try:
        flat = layout.Layout([spec]).columns([Tensor(spec.name, tensor.datatype, array)])
        return [column.cast(spec.dtype) for column in flat.columns]
    except errors.InvalidArgumentError as error:
        raise _broken(model, f"the output {spec.name!r}: {error.message}") from error


def _broken(model: str, what: str) -> errors.InternalError:
    return errors.InternalError(
        errors.Reason.INFERENCE_FAILED,
        f"the server's answer about {model!r} breaks the protocol: {what}",
    )
