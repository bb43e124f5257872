"""Which predictions are copied to a shadow."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from setpoint_columns import DataType
from setpoint_router.domain import assignment, plan, route, shadow
from setpoint_runtime import errors

KEYS = [f"ключ {number}" for number in range(20_000)]


def served(*versions: int) -> tuple[route.ServedVersion, ...]:
    """Returns versions with one input each."""
    field = route.Field("x", DataType.FLOAT32)
    return tuple(
        route.ServedVersion(version=each, inputs=(field,), outputs=()) for each in versions
    )


def serving(shadows: dict[int, int], weights: dict[int, int] | None = None) -> plan.ServingRoute:
    """Returns a route with shadows, made ready."""
    content = route.Content(
        name="flights",
        model="delays",
        weights=weights or {1: 10_000},
        shadows=tuple(shadow.Shadow(*each) for each in shadows.items()),
    )
    return plan.serving_route(route.first_revision(content, served(*content.versions), 1))


def chosen(each: plan.ShadowPlan) -> set[int]:
    """Returns which of the keys are copied."""
    return set(each.chosen(KEYS)[0].tolist())


def test_chosen_is_a_share_of_the_keys() -> None:
    """A shadow gets its share of many keys, independently of the other shadow and of the version."""
    made = serving({2: 3_000, 3: 3_000}, {1: 5_000, 4: 5_000})
    first, second = made.plans[0].shadows
    counts = [len(chosen(each)) / len(KEYS) for each in (first, second)]
    assert counts == pytest.approx([0.3, 0.3], abs=0.01)
    assert len(chosen(first) & chosen(second)) / len(KEYS) == pytest.approx(0.09, abs=0.01)
    of_one = {at for at, key in enumerate(KEYS) if made.assign(key)[0].version.version == 1}
    assert len(chosen(first) & of_one) / len(of_one) == pytest.approx(0.3, abs=0.01)


def test_chosen_keeps_keys_when_the_share_grows() -> None:
    """Whoever is copied at a small share is copied at a larger one."""
    small, large = (serving({2: share}).plans[0].shadows[0] for share in (500, 2_000))
    assert chosen(small) < chosen(large)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(strategies.text(max_size=20), strategies.integers(1, 10_000))
def test_explained_choice_is_the_one_made(key: str, share: int) -> None:
    """What is explained of a key, whatever it is, is what happens to it."""
    made = serving({2: share})
    (choice,) = made.route.shadows_of(key)
    rows, slots = made.plans[0].shadows[0].chosen([key])
    assert (choice.is_copied, choice.slot) == (len(rows) == 1, int(slots[0]))
    assert choice.slot == assignment.slot_of("flights/shadow/2", key)


def test_version_is_no_shadow_of_itself() -> None:
    """A shadow that also serves gets copies of what the others answer alone."""
    made = serving({2: 10_000, 3: 100}, {1: 9_000, 2: 1_000})
    versions = {
        each.version.version: [one.plan.version.version for one in each.shadows]
        for each in made.plans
    }
    assert versions == {1: [2, 3], 2: [3]}


def test_route_without_shadows_has_none() -> None:
    """A route that names none has nothing to look at."""
    assert serving({}).plans[0].shadows == ()
    assert serving({2: 10_000}).plans[0].version.version == 1
    assert len(serving({2: 10_000}).plans) == 1


@pytest.mark.parametrize(
    ("shadows", "field"),
    [
        (((0, 1),), "route.shadows"),
        (((2, 0),), "route.shadows[version 2]"),
        (((2, 10_001),), "route.shadows[version 2]"),
        (((2, 5), (2, 6)), "route.shadows"),
        (tuple((each, 1) for each in range(1, 10)), "route.shadows"),
    ],
)
def test_check_refuses(shadows: Any, field: str) -> None:
    """Each broken rule is named by its field."""
    content = route.Content(
        name="flights",
        model="delays",
        weights={1: 10_000},
        shadows=tuple(shadow.Shadow(*each) for each in shadows),
    )
    with pytest.raises(errors.InvalidArgumentError) as caught:
        route.check_content(content)
    assert caught.value.violations[0].field == field
