"""The point-in-time join by the service against one by hand, on the demo's real history."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from tests.support import departures
from tests.support.departures import Past

from setpoint.feature.v1 import definition_pb2
from setpoint_demo import definitions

pytestmark = pytest.mark.timeout(300)

KEYS = {"carrier": "carrier", "origin": "origin", "aircraft": "tailnum", "flight": "flight_id"}
"""Entity to key column; every entity of the demo has one."""

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the join."""

    value: Any
    status: str
    event_time: int
    """Microseconds UTC, -1 for none."""


class ByHand:
    """The rules of the design in plain Python, one row after the other, with no index but the key.

    Args:
        frames: All rows of all views, in the order of writing.
    """

    def __init__(self, frames: Mapping[str, pl.DataFrame]) -> None:
        self._views = {view.name: view for view in definitions.VIEWS}
        self._rows = {
            name: frame.rows_by_key(KEYS[self._views[name].entity], named=True, include_key=True)
            for name, frame in frames.items()
        }

    def value(self, feature: definition_pb2.FeatureReference, question: dict[str, Any]) -> Value:
        """Returns what was known of a feature when a question was asked."""
        view = self._views[feature.view]
        [field] = [each for each in view.fields if each.name == feature.field]
        default = field.default_value.string_value or None
        key, time = question[KEYS[view.entity]], question["event_time"]
        rows = [] if key is None else self._rows[view.name].get(key, [])
        known = [
            (row["event_time"], row["created_time"], sequence)
            for sequence, row in enumerate(rows)
            if row["event_time"] <= time and row["created_time"] <= time
        ]
        if not known:
            return Value(default, "MISSING" if default is None else "DEFAULT", -1)
        latest = max(known)
        ttl = timedelta(microseconds=view.ttl_microseconds)
        if ttl and latest[0] < time - ttl:
            return Value(default, "STALE", _microseconds(latest[0]))
        return Value(rows[latest[2]][feature.field], "FRESH", _microseconds(latest[0]))


def _microseconds(time: datetime) -> int:
    return (time - departures.EPOCH) // MICROSECOND


def _spine(questions: pl.DataFrame) -> pl.DataFrame:
    """Takes keys and times, some of them a microsecond beside the mark, where bounds are decided."""
    keys = questions.select("flight_id", "carrier", "origin", "tailnum", "event_time")
    shift = pl.duration(microseconds=pl.int_range(pl.len()) % 3 - 1)
    return keys.with_columns(event_time=pl.col("event_time") + shift)


async def test_join_equals_one_by_hand(past: Past, questions: pl.DataFrame) -> None:
    """Proves values, statuses and event times of every feature, nulls and stale ones included."""
    spine = _spine(questions)
    assert spine.height >= 300
    found = await past.client.get_historical_features(definitions.FEATURE_SET, spine)
    by_hand = ByHand(past.frames)
    features = definitions.feature_set(departures.LEAK).features
    seen = set()
    for feature in features:
        name = feature.alias or feature.field
        expected = [by_hand.value(feature, row) for row in spine.to_dicts()]
        assert found.columns[name].to_list() == [each.value for each in expected], name
        assert found.status_names(name) == [each.status for each in expected], name
        assert found.event_times[name].tolist() == [each.event_time for each in expected], name
        seen |= {each.status for each in expected}
    assert seen == {"FRESH", "STALE", "MISSING", "DEFAULT"}, "the sample has every case"


async def test_join_gives_null_for_what_is_not_known_yet(
    past: Past, questions: pl.DataFrame
) -> None:
    """Proves that the delay of a departure is null when it is asked about before the departure."""
    departed = past.frames["departed_flight"].select("flight_id", departed="event_time")
    waiting = questions.join(departed, "flight_id").filter(
        pl.col("departed") > pl.col("event_time")
    )
    assert waiting.height > questions.height / 2
    found = await past.client.get_historical_features(definitions.FEATURE_SET, _spine(waiting))
    assert set(found.columns["departure_delay"].to_list()) == {None}
    assert set(found.status_names("departure_delay")) == {"MISSING"}
