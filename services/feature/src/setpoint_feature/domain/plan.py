"""A feature set made ready for reading: which views, keyed by which columns, give which columns."""

from collections.abc import Mapping
from dataclasses import dataclass

from setpoint_columns import DataType
from setpoint_feature.domain import blueprint, definitions, derivation, keys, packing, visibility
from setpoint_features import library


class CompiledView:
    """A version of a view with its codecs, made once and shared by every read and write."""

    def __init__(
        self, view: definitions.FeatureView, number: int, source: "CompiledView | None" = None
    ) -> None:
        """Compiles a view.

        Args:
            view: The view.
            number: Its short name inside the history.
            source: Of an aggregate view: the view whose rows are its events.
        """
        self.view = view
        self.number = number
        self.codec = keys.KeyCodec(view.keys)
        self.layout = packing.Layout(view.fields)
        self.rule = visibility.Rule.of(view)
        self.has_default = tuple(each.default is not None for each in view.fields)
        self.stream = number if source is None else source.number
        """The view whose rows decide on its values: itself, or the source of its events."""
        self.blueprint = (
            None
            if source is None
            else blueprint.Blueprint(
                view, blueprint.Source(source.number, source.view, source.layout, source.codec)
            )
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Features of one view that are looked up by the same key."""

    view: CompiledView
    key_columns: Mapping[str, str]
    fields: tuple[int, ...]
    """Positions of the fields in the view, in the order they are read."""
    places: tuple[int, ...]
    """For each of them its place in the feature set."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a read of a feature set needs, without another look-up."""

    feature_set: definitions.FeatureSet
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    row_bytes: int
    """Bytes of one answered row without texts, statuses and event times included."""
    recipe: derivation.Derivation | None = None
    """How the transformations' columns follow; None without any."""


def compile_plan(
    feature_set: definitions.FeatureSet,
    views: Mapping[tuple[str, str], CompiledView],
    functions: library.Library = library.EMPTY,
) -> Plan:
    """Returns the plan of a feature set whose references are bound.

    Args:
        feature_set: The set.
        views: Compiled views by name and version.
        functions: The transformations that this process has.

    Raises:
        FailedPreconditionError: TRANSFORMATION_NOT_FOUND or TRANSFORMATION_MISMATCH.
    """
    gathered: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[int]] = {}
    for place, each in enumerate(feature_set.features):
        mapping = tuple(sorted(each.key_columns.items()))
        gathered.setdefault((each.view, each.view_version, mapping), []).append(place)
    groups = tuple(
        Group(view, dict(mapping), _positions(view, feature_set, places), tuple(places))
        for (name, version, mapping), places in gathered.items()
        for view in (views[name, version],)
    )
    columns = tuple(each.column for each in feature_set.features)
    width = sum(_width(group.view, position) for group in groups for position in group.fields)
    width += sum(packing.WIDTHS[each.dtype] for each in feature_set.transformations if each.dtype)
    total = width + (len(columns) + len(feature_set.transformations)) * _OVERHEAD_BYTES
    recipe = derivation.compile_derivation(feature_set, functions)
    return Plan(feature_set, columns, groups, total, recipe)


_OVERHEAD_BYTES = 10
"""Status, event time and, rounded up, the validity bit of one value."""


def _width(view: CompiledView, position: int) -> int:
    slot = view.layout.slots[position]
    return slot.stop - slot.start


def _positions(
    view: CompiledView, feature_set: definitions.FeatureSet, places: list[int]
) -> tuple[int, ...]:
    found = []
    for place in places:
        position = view.view.field_index(feature_set.features[place].field)
        if position is None:
            raise AssertionError("registration binds features to existing fields only")
        found.append(position)
    return tuple(found)


def key_columns(
    feature_set: definitions.FeatureSet, views: Mapping[tuple[str, str], definitions.FeatureView]
) -> tuple[definitions.FieldSpec, ...]:
    """Returns the columns that a request for a set must carry, each once, by name.

    A column that is INT32 for one view and INT64 for another is INT64; it is the same key.
    """
    found: dict[str, definitions.FieldSpec] = {}
    for each in feature_set.features:
        for key in views[each.view, each.view_version].keys:
            column = each.key_columns.get(key.name, key.name)
            known = found.get(column)
            if known is None or (known.dtype is DataType.INT32 and key.dtype is DataType.INT64):
                found[column] = definitions.FieldSpec(column, key.dtype, key.description)
    return tuple(found[name] for name in sorted(found))
