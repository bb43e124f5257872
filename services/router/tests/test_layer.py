"""Layers: who takes part in a route's split."""

from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from scipy import stats

from setpoint_columns import DataType
from setpoint_router.domain import assignment, layer, plan, route
from setpoint_runtime import errors

PRICES = layer.Layer("prices", 2_000, 5_000, 1)
KEYS = [f"user-{number}" for number in range(20_000)]


def revision(part: layer.Layer | None, name: str = "flights", **fields: Any) -> route.Route:
    """Returns a route whose split of versions 2 and 3 is for the keys of a part."""
    fields.setdefault("weights", {2: 5_000, 3: 5_000})
    content = route.Content(name=name, model="delays", layer=part, **fields)
    output = (route.Field("y", DataType.FLOAT64),)
    served = tuple(
        route.ServedVersion(version=version, inputs=(), outputs=output)
        for version in content.versions
    )
    return route.first_revision(content, served, 1)


WHOLE, PART = revision(None), revision(PRICES)
SERVING = plan.serving_route(PART)


@hypothesis.given(strategies.text(max_size=30))
def test_assign_by_layer(key: str) -> None:
    """Shows that a key outside the part gets the baseline and says why, in the data plane too."""
    version, slot, reason = PART.assign(key)
    assert slot == WHOLE.assign(key)[1]
    if 2_000 <= assignment.slot_of("layer/prices", key) < 5_000:
        assert (version, slot, reason) == WHOLE.assign(key)
    else:
        assert (version, reason) == (1, route.AssignmentReason.LAYER)
    found, *rest = SERVING.assign(key)
    assert (found.version.version, *rest) == (version, slot, reason)


def test_assign_override_before_layer() -> None:
    """Shows that an override holds outside the part too."""
    outside = next(key for key in KEYS if not PRICES.takes(key))
    part = revision(PRICES, overrides={outside: 3})
    assert part.assign(outside)[::2] == (3, route.AssignmentReason.OVERRIDE)
    assert plan.serving_route(part).assign(outside)[0].version.version == 3


def test_routes_of_a_layer_share_no_key() -> None:
    """Shows that each key takes part in one route of a layer, and each route gets its share."""
    parts = [layer.Layer("prices", first, first + 2_500, 1) for first in range(0, 10_000, 2_500)]
    routes = [revision(part, f"route-{at}") for at, part in enumerate(parts)]
    reasons = np.array([[each.assign(key)[2] for each in routes] for key in KEYS])
    takes_part = reasons == route.AssignmentReason.SLOT
    assert (takes_part.sum(axis=1) == 1).all()
    assert stats.chisquare(takes_part.sum(axis=0)).pvalue > 1e-4


@pytest.mark.parametrize("salt", ["flights", "prices", "layer/sizes", ""])
def test_layers_are_independent(salt: str) -> None:
    """Shows that taking part says nothing of the slot in a route or in another layer."""
    first = assignment.slots_of(PRICES.salt, KEYS)
    second = assignment.slots_of(salt, KEYS)
    assert stats.pearsonr(first, second).pvalue > 1e-4
    table = np.histogram2d(first, second, bins=10, range=[[0, 10_000]] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Preise!"}, "route.layer.name"),
        ({"first_slot": -1}, "route.layer.first_slot"),
        ({"first_slot": 10_000}, "route.layer.first_slot"),
        ({"end_slot": 2_000}, "route.layer.end_slot"),
        ({"end_slot": 10_001}, "route.layer.end_slot"),
        ({"baseline_version": 0}, "route.layer.baseline_version"),
    ],
)
def test_check_refuses(changes: dict[str, Any], field: str) -> None:
    """Shows that each broken rule is named by its field, also as part of a route."""
    wrong = replace(PRICES, **changes)
    content = route.Content(name="r", model="m", weights={1: 10_000}, layer=wrong)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        route.check_content(content)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("other", "is_refused"),
    [
        (replace(PRICES, first_slot=0, end_slot=2_000), False),
        (replace(PRICES, first_slot=0, end_slot=2_001), True),
        (replace(PRICES, first_slot=3_000, end_slot=3_001), True),
        (replace(PRICES, first_slot=0, end_slot=10_000), True),
        (replace(PRICES, first_slot=5_000, end_slot=6_000), False),
        (replace(PRICES, name="sizes"), False),
        (None, False),
    ],
)
def test_check_exclusive(other: layer.Layer | None, is_refused: bool) -> None:
    """Shows that slots which another route has are refused, and neighbours and oneself are not."""
    mine = ("mine", PRICES)
    if not is_refused:
        layer.check_exclusive("mine", PRICES, [mine, ("other", other)])
        return
    with pytest.raises(errors.FailedPreconditionError, match="route other") as caught:
        layer.check_exclusive("mine", PRICES, [mine, ("other", other)])
    assert caught.value.reason is errors.Reason.IN_USE
