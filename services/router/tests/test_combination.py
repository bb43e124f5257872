"""Answers of several versions made one: the same as by hand, row by row."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from setpoint_columns import Column, Columns, DataType
from setpoint_router.domain import combination, ensemble, layer, plan, route
from setpoint_router.domain.ensemble import Combination, Ensemble, Member
from setpoint_runtime import errors

SCORE = route.Field("score", DataType.FLOAT64)
SMALL = route.Field("small", DataType.FLOAT32)
CLASS = route.Field("class", DataType.INT64)
NAME = route.Field("name", DataType.STRING)
OUTPUTS = (SCORE, CLASS, NAME, SMALL)

NUMBERS = strategies.none() | strategies.floats(-1e6, 1e6)
ROWS = strategies.tuples(
    NUMBERS,
    strategies.none() | strategies.integers(0, 2),
    strategies.none() | strategies.sampled_from(["a", "ü", ""]),
    strategies.none() | strategies.floats(-1e6, 1e6, width=32),
)


def made(kind: Combination, weights: Sequence[int]) -> Ensemble:
    """Returns an ensemble of versions 1, 2, ... with weights."""
    members = tuple(Member(version, weight) for version, weight in enumerate(weights, 1))
    return Ensemble(members, kind, 1)


def columns(rows: Sequence[Sequence[Any]]) -> Columns:
    """Returns a member's answers."""
    lists = list(zip(*rows, strict=True)) or [()] * len(OUTPUTS)
    return Columns.from_dict(
        {field.name: (field.dtype, values) for field, values in zip(OUTPUTS, lists, strict=True)}
    )


def vote(labels: Sequence[Any], weights: Sequence[int]) -> Any:
    """Returns the label that wins, by hand: the greatest weight, then whoever comes first."""
    totals: dict[Any, int] = {}
    for label, weight in zip(labels, weights, strict=True):
        if label is not None and weight:
            totals[label] = totals.get(label, 0) + weight
    best = max(totals.values(), default=None)
    return next((label for label in totals if totals[label] == best), None)


def average(numbers: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Returns a weighted mean of what is known, by hand."""
    known = [(n, w) for n, w in zip(numbers, weights, strict=True) if n is not None and w]
    total = sum(weight for _, weight in known)
    return math.fsum(n * w for n, w in known) / total if total else None


def by_hand(
    kind: Combination, answers: Sequence[Sequence[Any]], weights: Sequence[int]
) -> list[Any]:
    """Returns the common answer to one row; members that are missing weigh nothing."""
    if kind is Combination.MEAN:
        weights = [int(weight > 0) for weight in weights]
    scores, classes, names, small = zip(*answers, strict=True)
    of_class, of_name = vote(classes, weights), vote(names, weights)
    deciding = weights
    if kind is Combination.VOTE:
        deciding = [
            weight if label == of_class and label is not None else 0
            for label, weight in zip(classes, weights, strict=True)
        ]
    return [average(scores, deciding), of_class, of_name, average(small, deciding)]


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(strategies.data())
def test_combine_equals_brute_force(data: strategies.DataObject) -> None:
    """Any answers, nulls, weights and missing members give each row what it gets by hand."""
    kind = data.draw(strategies.sampled_from(Combination))
    weights = data.draw(strategies.lists(strategies.integers(1, 5), min_size=2, max_size=5))
    rows = data.draw(strategies.integers(0, 6))
    answers = [data.draw(strategies.lists(ROWS, min_size=rows, max_size=rows)) for _ in weights]
    flags = strategies.lists(strategies.booleans(), min_size=rows, max_size=rows)
    present = np.array([data.draw(flags) for _ in weights], np.bool_).reshape(len(weights), rows)
    found = combination.combine(
        made(kind, weights), OUTPUTS, [columns(each) for each in answers], present
    )
    assert found.names == tuple(each.name for each in OUTPUTS)
    for row in range(rows):
        mine = [weight * int(there[row]) for weight, there in zip(weights, present, strict=True)]
        wanted = by_hand(kind, [each[row] for each in answers], mine)
        got = [found[field.name].item(row) for field in OUTPUTS]
        assert got[1:3] == wanted[1:3]
        for value, expected in ((got[0], wanted[0]), (got[3], wanted[3])):
            assert (value is None) == (expected is None)
            if expected is not None:
                assert value == pytest.approx(expected, rel=1e-6, abs=1e-3)


def test_combine_one_present_is_its_answer() -> None:
    """With one member left its answer comes through bit by bit, whatever the weights."""
    rows = [(0.1, 2, "ü", 0.3), (1 / 3, 0, "a", 1e-30)]
    mine = columns(rows)
    absent = columns([(math.inf, 1, "b", math.nan)] * 2)
    present = np.array([[False, False], [True, True], [False, False]])
    for kind in Combination:
        found = combination.combine(made(kind, [7, 3, 9]), OUTPUTS, [absent, mine, None], present)
        assert found == mine


def test_vote_ties_go_to_the_first_member() -> None:
    """Of labels with equal weight that wins whose first supporter stands first."""
    labels = [[1, 2], [0, 1], [0, 2], [1, 1]]
    answers = [Columns(2, [Column.from_list("class", each, DataType.INT64)]) for each in labels]
    present = np.ones((4, 2), np.bool_)
    found = combination.combine(made(Combination.VOTE, [1] * 4), (CLASS,), answers, present)
    assert found["class"].to_list() == [1, 2]
    present[0] = False
    found = combination.combine(made(Combination.VOTE, [1] * 4), (CLASS,), answers, present)
    assert found["class"].to_list() == [0, 1]


def test_vote_gives_the_winners_probability() -> None:
    """A probability belongs to the label that it is answered with."""
    answers = [
        columns([(score, label, "x", 0.0)]) for score, label in ((0.51, 1), (0.55, 1), (0.01, 0))
    ]
    present = np.ones((3, 1), np.bool_)
    found = combination.combine(made(Combination.VOTE, [1, 1, 1]), OUTPUTS, answers, present)
    assert (found["class"].item(0), found["score"].item(0)) == (1, pytest.approx(0.53))
    found = combination.combine(made(Combination.MEAN, [1, 1, 1]), OUTPUTS, answers, present)
    assert (found["class"].item(0), found["score"].item(0)) == (1, pytest.approx(1.07 / 3))
    found = combination.combine(made(Combination.VOTE, [1, 1, 5]), OUTPUTS, answers, present)
    assert (found["class"].item(0), found["score"].item(0)) == (0, pytest.approx(0.01))


def version(number: int, **changes: Any) -> route.ServedVersion:
    """Returns a version with a score and a label."""
    fields: dict[str, Any] = {
        "inputs": (route.Field("x", DataType.FLOAT32), route.Field("y", DataType.STRING)),
        "outputs": (SCORE, CLASS),
        "feature_set": route.FeatureSet("set", "1"),
        "score_column": "score",
    }
    return route.ServedVersion(version=number, **(fields | changes))


def test_joint_version_is_what_members_share() -> None:
    """Members that agree are one version, whatever the order of their inputs."""
    other = version(2, inputs=version(1).inputs[::-1])
    found = combination.joint_version(made(Combination.VOTE, [1, 1]), [other, version(1)])
    assert found == dataclasses.replace(version(1), version=ensemble.VERSION)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (route.Field("x", DataType.FLOAT32),)},
        {"inputs": (route.Field("x", DataType.FLOAT64), route.Field("y", DataType.STRING))},
        {"outputs": (SCORE,)},
        {"outputs": (SCORE, NAME)},
        {"feature_set": None},
        {"feature_set": route.FeatureSet("set", "2")},
        {"score_column": "class"},
    ],
)
def test_joint_version_refuses_other_signature(changes: dict[str, Any]) -> None:
    """Members that see or say different things cannot answer together."""
    with pytest.raises(errors.FailedPreconditionError, match="versions 1 and 2") as caught:
        combination.joint_version(
            made(Combination.MEAN, [1, 1]), [version(1), version(2, **changes)]
        )
    assert caught.value.reason is errors.Reason.SIGNATURE_MISMATCH


@pytest.mark.parametrize(
    ("kind", "outputs"), [(Combination.MEAN, (CLASS, NAME)), (Combination.VOTE, (SCORE, SMALL))]
)
def test_joint_version_refuses_unfit_outputs(kind: Combination, outputs: Any) -> None:
    """There must be something to average, or to vote on."""
    served = [version(each, outputs=outputs) for each in (1, 2)]
    with pytest.raises(errors.FailedPreconditionError, match=kind.name):
        combination.joint_version(made(kind, [1, 1]), served)


def member_list(*versions: int) -> tuple[Member, ...]:
    """Returns members of weight 1."""
    return tuple(Member(each) for each in versions)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"members": member_list(1)}, "route.ensemble.members"),
        ({"members": member_list(*range(1, 18))}, "route.ensemble.members"),
        ({"members": member_list(0, 1)}, "route.ensemble.members"),
        ({"members": member_list(1, 2, 1)}, "route.ensemble.members"),
        (
            {"members": (Member(1, 0), Member(2))},
            "route.ensemble.members[version 1].weight",
        ),
        (
            {"members": (Member(1), Member(2, 10_001))},
            "route.ensemble.members[version 2].weight",
        ),
        ({"quorum": 3}, "route.ensemble.quorum"),
        ({"quorum": 0}, "route.ensemble.quorum"),
        ({"member_deadline_us": -1}, "route.ensemble.member_deadline_microseconds"),
    ],
)
def test_check_refuses(changes: dict[str, Any], field: str) -> None:
    """Each broken rule is named by its field."""
    found = dataclasses.replace(made(Combination.MEAN, [1, 1]), **changes)
    content = route.Content(name="r", model="m", weights={}, ensemble=found)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        route.check_content(content)
    assert caught.value.violations[0].field == field


def test_check_refuses_weights_beside_members() -> None:
    """A route has versions by weight or an ensemble, not both."""
    found = made(Combination.MEAN, [1, 1])
    content = route.Content(name="r", model="m", weights={1: 10_000}, ensemble=found)
    with pytest.raises(errors.InvalidArgumentError, match=r"route\.weights"):
        route.check_content(content)


def test_ensemble_serves_within_a_layer() -> None:
    """Keys outside the route's part of its layer get the baseline version, all others the ensemble."""
    content = route.Content(
        name="r",
        model="m",
        weights={},
        ensemble=made(Combination.MEAN, [1, 1]),
        layer=layer.Layer("shared", 0, 4_000, 3),
    )
    found = route.first_revision(content, (version(1), version(2), version(3)), 1)
    serving = plan.serving_route(found)
    assert content.layer is not None
    for number in range(200):
        key = f"key {number}"
        wanted = (
            (ensemble.VERSION, route.AssignmentReason.ENSEMBLE)
            if content.layer.takes(key)
            else (3, route.AssignmentReason.LAYER)
        )
        assert found.assign(key)[::2] == wanted
        chosen, _, reason = serving.assign(key)
        assert (chosen.version.version, reason) == wanted
        assert len(chosen.members) == (2 if not chosen.version.version else 0)


def test_slots_of_ensemble_routes() -> None:
    """Becoming an ensemble moves everybody, and going back moves everybody again."""
    served = (version(1), version(2))
    plain = route.Content(name="r", model="m", weights={1: 10_000})
    together = route.Content(
        name="r", model="m", weights={}, ensemble=made(Combination.MEAN, [1, 1])
    )
    first = route.first_revision(plain, served, 1)
    second = route.next_revision(first, together, served, 2)
    third = route.next_revision(second, plain, served, 3)
    assert [each.moved_slots for each in (first, second, third)] == [0, 10_000, 10_000]
    assert second.assign("key")[::2] == (0, route.AssignmentReason.ENSEMBLE)
    assert third.assign("key")[::2] == (1, route.AssignmentReason.SLOT)
    alone = route.first_revision(together, served, 1)
    assert alone.moved_slots == 0
