"""The feature service and the registry, as a partition needs them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from setpoint.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from setpoint_artifacts import digest as digests
from setpoint_artifacts import refusal
from setpoint_batch.partition.forms import FeatureSet, Model
from setpoint_columns import Columns
from setpoint_rpc import channel, tls
from setpoint_runtime import errors

CLIENT = "setpoint-batch"
TIMEOUT_SECONDS = 300.0
_TIME = "event_time"


@dataclass(frozen=True, slots=True)
class Fetched:
    """Features of rows; statuses as [features, rows]."""

    features: Columns
    statuses: Sequence[bytes]


def connect(task: Mapping[str, Any], peer: str) -> channel.Channel:
    """Opens a channel to a service by the address in a task."""
    around = task["around"]
    files = around.get("tls")
    identity = tls.TLSFiles(*(Path(each) for each in files)) if files else None
    return channel.connect(around[f"{peer}_address"], client=CLIENT, identity=identity)


class FeatureClient:
    """Features as known at each row's time."""

    def __init__(self, opened: channel.Channel, feature_set: FeatureSet) -> None:
        """Take a channel to the feature service."""
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(opened)
        self._feature_set = feature_set

    @property
    def request_columns(self) -> Sequence[str]:
        """Request fields that the feature service computes with: a spine holds them too."""
        return self._feature_set.request_columns

    async def fetch(self, spine: Columns) -> Fetched:
        """Return the features of entities; the spine's last column holds the times.

        Raises:
            SetpointError: The service does not answer as it should.
        """
        call = self._stub.GetHistoricalFeatures(self._asked(spine), timeout=TIMEOUT_SECONDS)
        parts: list[Columns] = []
        statuses: list[Sequence[bytes]] = []
        try:
            async for answer in call:
                parts.append(column_messages.from_proto(answer.features, "features"))
                statuses.append(list(answer.statuses))
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            call.cancel()
        features = parts[0] if len(parts) == 1 else Columns.concat(parts)
        joined = [b"".join(each) for each in zip(*statuses, strict=True)]
        if features.names != self._feature_set.features or features.rows != spine.rows:
            raise errors.InternalError(
                errors.Reason.INTERNAL,
                f"the feature service answered {features.rows} rows of other columns or number:"
                f" {', '.join(features.names)[:200]}",
            )
        return Fetched(features, joined)

    async def _asked(
        self, spine: Columns
    ) -> AsyncIterator[feature_service_pb2.GetHistoricalFeaturesRequest]:
        # Spines are as large as chunks, which fit a message but for very long keys.
        middle = (spine.rows + 1) // 2
        large = sum(each.values.nbytes for each in spine.columns) > 2_000_000
        pieces = [spine.slice(0, middle), spine.slice(middle, spine.rows)] if large else [spine]
        for index, piece in enumerate(pieces):
            request = feature_service_pb2.GetHistoricalFeaturesRequest(
                spine=column_messages.to_proto(piece)
            )
            if index == 0:
                request.time_column = spine.names[-1]
                request.shared_event_times = True
                request.feature_set.CopyFrom(
                    reference_pb2.FeatureSetReference(
                        name=self._feature_set.name, version=self._feature_set.version
                    )
                )
            yield request


def time_name(taken: Sequence[str]) -> str:
    """Returns a name for the column of times that no key has."""
    name = _TIME
    while name in taken:
        name = f"_{name}"
    return name


async def artifact(task: Mapping[str, Any], model: Model) -> bytes:
    """Returns the bytes of a model's artifact: those kept here before, or the registry's.

    Raises:
        FailedPreconditionError: They are not what the manifest says.
        UnavailableError: The registry does not answer.
    """
    if not digests.is_digest(model.digest):
        raise refused(model, errors.Reason.DIGEST_MISMATCH, "its artifact has no digest")
    path = Path(task["around"]["work_directory"]) / "artifacts" / model.digest
    with contextlib.suppress(OSError, refusal.RefusedError):
        data = path.read_bytes()
        digests.verify(data, model.digest, model.size)
        # Used today, and so kept for longer.
        os.utime(path)
        return data
    async with connect(task, "registry") as opened:
        data = await _download(registry_service_pb2_grpc.RegistryServiceStub(opened), model)
    try:
        digests.verify(data, model.digest, model.size)
    except refusal.RefusedError as error:
        raise refused(model, error.reason, error.message) from error
    # A failing disk makes jobs slower, not impossible.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        partial.write_bytes(data)
        partial.replace(path)
    return data


async def _download(stub: Any, model: Model) -> bytes:
    received = bytearray()
    request = registry_service_pb2.DownloadArtifactRequest(digest=model.digest)
    call = stub.DownloadArtifact(request, timeout=TIMEOUT_SECONDS)
    try:
        async for piece in call:
            received += piece.data
            if len(received) > model.size:
                break
    except grpc.aio.AioRpcError as error:
        raise channel.from_rpc_error(error) from error
    finally:
        call.cancel()
    return bytes(received)


def refused(model: Model, reason: errors.Reason, message: str) -> errors.FailedPreconditionError:
    """Returns the error for a version that cannot be run as it is."""
    return errors.FailedPreconditionError(
        reason,
        f"version {model.name}/{model.version}: {message}",
        metadata={"model": model.name, "version": str(model.version)},
    )
