"""Answers about features out of their messages, one by one as they come, and then put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint.feature.v1 import feature_service_pb2
from setpoint_columns import Columns
from setpoint_columns import proto as columns_proto
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """What one message says about the features of some rows."""

    feature_set: tuple[str, str]
    """Name and version."""
    columns: Columns
    statuses: Sequence[bytes]
    event_times: Sequence[bytes]
    """Different ones; several features may share theirs."""
    positions: Sequence[int]
    """Of each feature's times among them; empty where each feature has its own."""
    history_views: Sequence[str]

    def times(self, index: int) -> int:
        """Returns the position of a feature's event times, -1 where it has none."""
        if not self.positions:
            return index
        return self.positions[index] if index < len(self.positions) else -1


def part(
    message: feature_service_pb2.GetOnlineFeaturesResponse
    | feature_service_pb2.GetHistoricalFeaturesResponse,
) -> FeaturePart:
    """Takes an answer out of its message, which can be done while others are on their way."""
    found = message.feature_set
    views: Sequence[str] = ()
    if isinstance(message, feature_service_pb2.GetOnlineFeaturesResponse):
        views = list(message.history_views)
    # Each look at an element of a message's list copies it, so all are taken at once.
    return FeaturePart(
        (found.name, found.version),
        columns_proto.from_proto(message.features, "features"),
        list(message.statuses),
        list(message.event_times),
        list(message.event_time_positions),
        views,
    )


Statuses = dict[str, npt.NDArray[np.uint8]]
EventTimes = dict[str, npt.NDArray[np.int64]]


def joined(parts: Sequence[FeaturePart]) -> tuple[Columns, Statuses, EventTimes]:
    """Returns columns, statuses and event times of all rows; features share the times that they share in all parts.

    Raises:
        DataLossError: Statuses or event times do not fit the features.
    """
    columns = Columns.concat([each.columns for each in parts])
    statuses: Statuses = {}
    event_times: EventTimes = {}
    shared: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
    for index, name in enumerate(columns.names):
        places = tuple(each.times(index) for each in parts)
        if places not in shared:
            pairs = zip(parts, places, strict=True)
            times = b"".join(_at(each.event_times, place) for each, place in pairs)
            shared[places] = np.frombuffer(times, "<i8")
        event_times[name] = shared[places]
        codes = b"".join(_at(each.statuses, index) for each in parts)
        statuses[name] = np.frombuffer(codes, np.uint8)
        if not len(statuses[name]) == len(event_times[name]) == columns.rows:
            text = f"statuses of {name} do not have the {columns.rows} rows of its values"
            raise errors.DataLossError(errors.Reason.MALFORMED_COLUMNS, text)
    return columns, statuses, event_times


def _at(parts: Sequence[bytes], place: int) -> bytes:
    return parts[place] if 0 <= place < len(parts) else b""
