"""Versions that another server of the Open Inference Protocol runs."""

import contextlib
from collections.abc import Collection, Sequence

import numpy as np

from setpoint_artifacts import external, refusal
from setpoint_artifacts.external import External
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_inference.domain.version import Manifest
from setpoint_oip.client import ModelDescription, OipClient, TensorDescription
from setpoint_oip.datatypes import OF_COLUMN
from setpoint_oip.tensors import Tensor
from setpoint_rpc import channel
from setpoint_runtime import errors
from setpoint_scoring.packing import AnyArray, Feeds

_METADATA_SECONDS = 5.0
_MAX_IN_FLIGHT = 256


class ExternalOip:
    """Implements `ports.Backend`.

    Only addresses on the platform's list are asked: whoever registers a version must not be able to
    make inference knock at doors of its own choice.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        """Take the list of addresses, `host:port` each."""
        self._allowed = frozenset(allowed)

    async def open(self, manifest: Manifest, data: bytes) -> "ExternalVersion":
        """Return a version whose server agrees with its manifest."""
        target = external.parse(data)
        if target.address not in self._allowed:
            raise refusal.RefusedError(
                errors.Reason.PERMISSION_DENIED,
                f"the address {target.address!r} is not on this platform's list",
            )
        async with contextlib.AsyncExitStack() as stack:
            opened = await stack.enter_async_context(
                channel.connect(target.address, client="inference")
            )
            client = OipClient(opened)
            try:
                described = await client.metadata(
                    target.model, target.version, timeout_seconds=_METADATA_SECONDS
                )
            except errors.SetpointError as error:
                raise _told(target, error) from error
            _check_side("input", described.inputs, manifest.inputs, is_whole=True)
            _check_side("output", described.outputs, manifest.outputs, is_whole=False)
            return ExternalVersion(target, client, described, manifest, stack.pop_all())
        raise AssertionError("the stack swallows nothing")


class ExternalVersion:
    """Implements `ports.Remote`."""

    def __init__(
        self,
        target: External,
        client: OipClient,
        described: ModelDescription,
        manifest: Manifest,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        """Keep what a call needs; `resources` are given back at the end."""
        self._target = target
        self._client = client
        self._inputs = manifest.inputs
        self._outputs = manifest.outputs
        self._flat = {each.name for each in described.inputs if len(each.shape) == 1}
        self._resources = resources
        self._in_flight = 0

    async def run(self, feeds: Feeds, rows: int, timeout_seconds: float) -> Sequence[AnyArray]:
        """Ask the server."""
        if self._in_flight >= _MAX_IN_FLIGHT:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED,
                f"{self._in_flight} calls wait for {self._target.address}",
                retry_after_seconds=0.1,
            )
        inputs = [
            Tensor(
                spec.name,
                OF_COLUMN[spec.dtype],
                feeds[spec.name].reshape(-1) if spec.name in self._flat else feeds[spec.name],
            )
            for spec in self._inputs
        ]
        self._in_flight += 1
        try:
            answer = await self._client.infer(
                self._target.model,
                inputs,
                version=self._target.version,
                outputs=[spec.name for spec in self._outputs],
                timeout_seconds=timeout_seconds,
            )
        except errors.SetpointError as error:
            raise _told(self._target, error) from error
        finally:
            self._in_flight -= 1
        return [_array(self._target, answer.outputs[spec.name], spec) for spec in self._outputs]

    def memory_bytes(self) -> int:
        """Return nothing: it runs elsewhere."""
        return 0

    async def close(self) -> None:
        """Close the channel."""
        await self._resources.aclose()


def _check_side(
    side: str,
    described: Sequence[TensorDescription],
    specs: Sequence[TensorSpec],
    *,
    is_whole: bool,
) -> None:
    by_name = {each.name: each for each in described}
    for spec in specs:
        found = by_name.pop(spec.name, None)
        if found is None:
            raise _mismatch(side, spec.name, "is unknown to the server")
        wanted = OF_COLUMN[spec.dtype]
        if found.datatype is not wanted:
            raise _mismatch(
                side, spec.name, f"is {found.datatype.name} on the server, not {wanted.name}"
            )
        width = len(spec.columns)
        if not _is_table(found.shape, width):
            shape = list(found.shape)
            raise _mismatch(side, spec.name, f"is {shape} on the server, not [-1, {width}]")
    if is_whole and by_name:
        raise _mismatch(side, next(iter(by_name)), "is missing in the manifest")


def _is_table(shape: tuple[int, ...], width: int) -> bool:
    if not shape or shape[0] != -1:
        return False
    return width == 1 if len(shape) == 1 else len(shape) == 2 and shape[1] in (-1, width)


def _mismatch(side: str, name: str, rule: str) -> refusal.RefusedError:
    return refusal.RefusedError(errors.Reason.SIGNATURE_MISMATCH, f"{side} tensor {name!r} {rule}")


def _array(target: External, tensor: Tensor, spec: TensorSpec) -> AnyArray:
    """Return an output as the manifest has it; its shape is checked with that of every engine."""
    if tensor.datatype is not OF_COLUMN[spec.dtype]:
        raise _failed(target, f"the output {spec.name!r} is {tensor.datatype.name}")
    if spec.dtype is not DataType.STRING:
        return tensor.array
    try:
        texts = [
            each.decode() if isinstance(each, bytes) else each
            for each in tensor.array.reshape(-1).tolist()
        ]
    except UnicodeDecodeError:
        raise _failed(target, f"the output {spec.name!r} is no text") from None
    return np.array(texts, object).reshape(tensor.array.shape)


def _told(target: External, error: errors.SetpointError) -> errors.SetpointError:
    """Return what a failure of the server means to those who asked inference."""
    if isinstance(
        error,
        errors.DeadlineExceededError | errors.ResourceExhaustedError,
    ):
        return error
    if isinstance(error, errors.UnavailableError | errors.NotFoundError):
        return errors.UnavailableError(
            errors.Reason.MODEL_NOT_READY,
            f"the model {target.model!r} at {target.address} does not answer: {error.message}",
            retry_after_seconds=1.0,
        )
    return _failed(target, error.message)


def _failed(target: External, what: str) -> errors.InternalError:
    return errors.InternalError(
        errors.Reason.INFERENCE_FAILED, f"the model {target.model!r} at {target.address}: {what}"
    )
