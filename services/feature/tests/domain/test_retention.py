import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import DataType
from setpoint_feature.domain import (
    aggregation,
    blueprint,
    catalog,
    changes,
    definitions,
    registration,
    retention,
)
from setpoint_runtime import errors

SECOND = 1_000_000
NOW = 1_000 * SECOND
KEYS = (definitions.FieldSpec("plane", DataType.INT64),)
SOURCE = definitions.FeatureView(
    "landings", "plane", (definitions.Field("delay", DataType.INT64),), keys=KEYS
)


def known(left: retention.Retained | None = None) -> catalog.Catalog:
    """Returns a source of events, of which rows are gone."""
    found = catalog.Catalog()
    found.update([catalog.Stored(definitions.Entity("plane", KEYS), 1)])
    found.update([catalog.Stored(registration.view(found, SOURCE, NOW), 2, 7)])
    found.retained = {} if left is None else {7: left}
    return found


def windows(*seconds: int) -> definitions.FeatureView:
    """Returns counts over some windows."""
    fields = tuple(
        aggregation.AggregateField(
            f"count{each}", aggregation.Function.COUNT, "", each * SECOND, SECOND
        )
        for each in seconds
    )
    return definitions.FeatureView(
        "counts", "plane", (), aggregation=aggregation.Aggregation("landings", fields)
    )


@given(
    st.integers(-(10**7), 10**7),
    st.integers(1, 9),
    st.integers(1, 20),
    st.sampled_from(definitions.Boundary),
)
def test_windows_answer_as_soon_as_no_event_in_them_may_be_gone(
    horizon: int, hops: int, hop: int, boundary: definitions.Boundary
) -> None:
    """The first time at which the last event that may be gone counts no more, told by the windows' own rule."""
    hop *= SECOND
    field = aggregation.AggregateField("n", aggregation.Function.COUNT, "", hops * hop, hop)
    source = dataclasses.replace(SOURCE, boundary=boundary)
    left = retention.Retained(horizon, 1, 1)
    since = retention.windows_from(source, (field,), left)
    last = retention.last_removed(source, left)
    event = np.array([last, last + 1], np.int64)
    leaves = blueprint.expiries(blueprint.buckets(event, hop), hop, field.window)
    assert leaves[0] == since
    # The rule of a row: known at T until then.
    is_known = last < horizon if boundary is definitions.Boundary.EXCLUSIVE else last <= horizon
    assert is_known
    assert last + 1 >= horizon + (boundary is definitions.Boundary.INCLUSIVE)


def test_registration_names_the_windows_that_reach_too_far() -> None:
    """Windows that lack rows now are refused; those that are complete by now are accepted, and the plan says since when."""
    gone = known(retention.Retained(NOW - 10 * SECOND, 5, 3))
    with pytest.raises(errors.FailedPreconditionError, match="take the retention off") as caught:
        registration.view(gone, windows(5, 9, 10), NOW)
    assert caught.value.reason is errors.Reason.HISTORY_REMOVED
    named = [each.field for each in caught.value.violations]
    assert named == ["view.aggregation.fields[2].window_microseconds"]
    assert retention.complete_from_of(caught.value) == NOW + SECOND

    planned = changes.plan(gone, changes.Wanted(views=[windows(5, 9)]), NOW)
    (found,) = changes.judged(gone, planned, ())
    (note,) = found.change.consequences
    assert note.severity is changes.Severity.NOTE
    assert note.message.startswith("answers from 1970-01-01T00:16:40+00:00 on;")


def test_plan_that_touches_the_source_too_is_no_way_around() -> None:
    """A source that is changed along keeps its rows, and what is gone of them."""
    gone = known(retention.Retained(NOW - SECOND, 5, 3))
    described = dataclasses.replace(SOURCE, description="of planes")
    wanted = changes.Wanted(views=[described, windows(5)])
    with pytest.raises(errors.FailedPreconditionError):
        changes.plan(gone, wanted, NOW)
    # Another version starts empty, so it lacks nothing.
    other = dataclasses.replace(SOURCE, ttl=1)
    changes.plan(gone, changes.Wanted(views=[other, windows(5)]), NOW)


def test_registered_windows_may_be_described_anew() -> None:
    """What is gone counts when windows are made, not when people say something about them."""
    found = known()
    found.update([catalog.Stored(registration.view(found, windows(5), NOW), 3, 8)])
    found.retained = {7: retention.Retained(NOW, 5, 3)}
    again = dataclasses.replace(windows(5), description="of planes")
    assert registration.view(found, again, NOW).description == "of planes"
