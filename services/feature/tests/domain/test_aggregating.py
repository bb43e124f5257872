import dataclasses

import pytest

from setpoint_columns import DataType
from setpoint_feature.domain import (
    aggregation,
    catalog,
    changes,
    definitions,
    difference,
    registration,
)
from setpoint_runtime import errors

DAY = 86_400_000_000
CARRIER = definitions.Entity("carrier", (definitions.FieldSpec("carrier", DataType.STRING),))
FLIGHT = definitions.Entity("flight", (definitions.FieldSpec("flight", DataType.INT64),))
LANDINGS = definitions.FeatureView(
    "landings",
    "flight",
    (definitions.Field("carrier", DataType.STRING), definitions.Field("late", DataType.BOOL)),
)
COUNT = aggregation.AggregateField("landings_1d", aggregation.Function.COUNT, window=DAY)
LATENESS = definitions.FeatureView(
    "lateness", "carrier", (), aggregation=aggregation.Aggregation("landings", (COUNT,))
)
RATES = definitions.FeatureSet("rates", (definitions.FeatureReference("lateness", "landings_1d"),))


def registered(*views: definitions.FeatureView) -> catalog.Catalog:
    """Returns a catalog with the entities, these views and the feature set."""
    known = catalog.Catalog()
    wanted = changes.Wanted((CARRIER, FLIGHT), views, (RATES,))
    for each in changes.plan(known, wanted, 0):
        stored = catalog.Stored(each.definition, known.revision + 1, known.revision + 1)
        known.update([stored])
    return known


def test_plan_takes_sources_first() -> None:
    """Definitions that are applied together may stand in any order."""
    known = registered(LATENESS, LANDINGS)
    assert known.view("lateness").stream == known.view("landings").number
    assert [each.view.name for each in known.aggregates_of(known.view("landings").number)] == [
        "lateness"
    ]


def test_catalog_loads_sources_first() -> None:
    """A source that was described anew, and so comes later, is there when its aggregates are compiled."""
    known = registered(LANDINGS, LATENESS)
    again = catalog.Catalog()
    source, aggregate = known.view("landings"), known.view("lateness")
    again.update([catalog.Stored(aggregate.view, 1, 2), catalog.Stored(source.view, 9, 1)])
    assert again.view("lateness").stream == 1
    assert again.revision == 9


def test_plan_leaves_aggregates_of_wrong_sources_alone() -> None:
    """A wrong source is told of once; what counts its rows is not blamed, nor bound to the old one."""
    known = registered(LANDINGS, LATENESS)
    wrong = dataclasses.replace(LANDINGS, ttl=-1)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        changes.plan(known, changes.Wanted(views=(LATENESS, wrong)), 0)
    assert [each.field for each in caught.value.violations] == [
        "definitions.views[1].ttl_microseconds"
    ]


@pytest.mark.parametrize("views", [(0,), (0, 1)])
def test_new_source_is_refused_for_models_that_count_it(views: tuple[int, ...]) -> None:
    """Rows of a new version of a source never reach a set over its aggregates: live models keep it."""
    known = registered(LANDINGS, LATENESS)
    changed = dataclasses.replace(LANDINGS, ttl=5)
    wanted = changes.Wanted(views=tuple((changed, LATENESS)[index] for index in views))
    planned = changes.plan(known, wanted, 0)
    use = changes.Use("late", 3, ("rates", known.feature_set("rates").version))
    error = changes.refusal(changes.judged(known, planned, [use]))
    assert isinstance(error, errors.FailedPreconditionError)
    assert "late/3" in error.message


def test_differences_of_windows_make_versions() -> None:
    """Another function, field or window is another version; another description is not."""
    known = registered(LANDINGS, LATENESS)
    before = known.view("lateness").view
    for options, makes_version in (
        ({"window": 2 * DAY}, True),
        (
            {"function": aggregation.Function.SHARE, "where": aggregation.Condition("late", True)},
            True,
        ),
        ({"description": "how busy"}, False),
    ):
        field = dataclasses.replace(COUNT, **options)
        wanted = dataclasses.replace(
            LATENESS, aggregation=aggregation.Aggregation("landings", (field,))
        )
        after = registration.view(known, wanted, 0)
        found = difference.between(before, after)
        assert (after.version != before.version) is makes_version
        assert any(each.makes_version for each in found) is makes_version
        assert all(
            "aggregation.fields[landings_1d]" in each.field or each.field.startswith("fields")
            for each in found
        )
