"""What people write down: entities, views and feature sets, as plain objects.

They check nothing but their own form; whether they make sense together is the service's to say, for
everybody the same. Each remembers where it was written, so that what the service says can be told by file
and line.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from setpoint_columns import DataType
from setpoint_features import declaration
from setpoint_runtime import errors

Boundary = Literal["inclusive", "exclusive"]
Default = bool | int | float | str
Tags = Mapping[str, str]


@dataclass(frozen=True)
class Location:
    """Where a definition was written."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "somewhere"


def _here() -> Location:
    """Returns who called the constructor of a definition."""
    frame = sys._getframe(1)  # noqa: SLF001  # what the standard library itself finds callers by.
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "dataclasses"):
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno)


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What people read; it never makes a version."""

    description: str = ""
    owner: str = ""
    tags: Tags = field(default_factory=dict)
    where: Location = field(default_factory=_here, compare=False, repr=False)


@dataclass(frozen=True)
class Entity(_Described):
    """A kind of thing that features describe.

    Example:
        `Entity("carrier", {"carrier": DataType.STRING}, description="An airline")`
    """

    name: str
    keys: Mapping[str, DataType] = field(default_factory=dict)
    """Key columns and their types; none for a global entity."""


@dataclass(frozen=True)
class Field:
    """One value of a view."""

    name: str
    dtype: DataType
    default: Default | None = None
    """Served when nothing is known or it is stale; None for null. Microseconds for TIMESTAMP."""
    sensitive: bool = False
    description: str = ""
    tags: Tags = field(default_factory=dict)
    finite: bool = False
    """Refuse NaN and infinite values; of floats alone."""
    where: Location = field(default_factory=_here, compare=False, repr=False)


@dataclass(frozen=True)
class Feature:
    """One field of a view as a column of a feature set."""

    view: str
    field: str
    alias: str = ""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Entity key to request column, where they differ."""
    where: Location = dataclasses.field(default_factory=_here, compare=False, repr=False)

    def named(self, alias: str, /, **keys: str) -> "Feature":
        """Returns the feature as a column of another name, its entity looked up by other columns.

        Example:
            `weather["wind"].named("wind_there", airport="destination")`
        """
        return replace(self, alias=alias, keys={**self.keys, **keys})


@dataclass(frozen=True)
class FeatureView(_Described):
    """Fields of one entity that become true together at an event time.

    Example:
        ```python
        delays = FeatureView(
            "delays", carrier, [Field("late_share", DataType.FLOAT64)], ttl=timedelta(days=7)
        )
        delays["late_share"]  # the field as a feature
        ```
    """

    name: str
    entity: Entity | str
    fields: Sequence[Field] = ()
    ttl: timedelta | None = None
    """Age from which on a value is stale; None for never."""
    boundary: Boundary = "inclusive"
    retention: timedelta | None = None
    """How far back joins stay exact; None for ever. Rows that nobody can ask for any more may go."""

    def __getitem__(self, name: str) -> Feature:
        """Returns one of the fields as a feature.

        Raises:
            KeyError: The view has no such field.
        """
        if all(each.name != name for each in self.fields):
            raise KeyError(f"view {self.name!r} has no field {name!r}")
        return Feature(self.name, name)


AggregateFunction = Literal["count", "sum", "mean", "min", "max", "share", "last", "distinct"]


@dataclass(frozen=True)
class Aggregate:
    """One value over a window of events."""

    name: str
    function: AggregateFunction
    window: timedelta
    of: str = ""
    """The field of the source that it is computed of; none for "share", and for "count" if all events count."""
    condition: tuple[str, Default] | None = None
    """A field of the source and the value that it must equal: which events count; of "share", which part of them."""
    hop: timedelta | None = None
    """Step in which old events leave; None for one that suits the window."""
    n: int = 0
    """Of "last": how many."""
    default: Default | None = None
    sensitive: bool = False
    description: str = ""
    tags: Tags = field(default_factory=dict)
    where: Location = field(default_factory=_here, compare=False, repr=False)


@dataclass(frozen=True)
class AggregateView(_Described):
    """Windows over the rows of another view, computed the same online and offline.

    Example:
        ```python
        windows = AggregateView(
            "landing_windows",
            carrier,
            landings,
            [
                Aggregate("landings_24h", "count", timedelta(hours=24)),
                Aggregate("late_share_7d", "share", timedelta(days=7), condition=("late", True)),
            ],
        )
        windows["late_share_7d"]  # as of any other view
        ```
    """

    name: str
    entity: Entity | str
    source: FeatureView | str
    """The view whose rows are the events."""
    fields: Sequence[Aggregate] = ()
    group_by: Mapping[str, str] = field(default_factory=dict)
    """Key of the entity to the field or key of the source that names it, where they differ."""
    boundary: Boundary = "inclusive"

    def __getitem__(self, name: str) -> Feature:
        """Returns one of the fields as a feature.

        Raises:
            KeyError: The view has no such field.
        """
        columns = {
            each.name if each.n <= 1 else f"{each.name}_{at}"
            for each in self.fields
            for at in range(1, max(2, each.n + 1))
        }
        if name not in columns:
            raise KeyError(f"view {self.name!r} has no field {name!r}")
        return Feature(self.name, name)


@dataclass(frozen=True)
class RequestField:
    """An input that the caller gives with the request."""

    name: str
    dtype: DataType
    description: str = ""
    where: Location = field(default_factory=_here, compare=False, repr=False)


@dataclass(frozen=True)
class Derived:
    """A column that a transformation computes from other columns of the set."""

    name: str
    function: Callable[..., Any] | str
    """A function that is declared with `transformation`, or `module:name` of one."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Parameter to column, where they differ."""
    where: Location = field(default_factory=_here, compare=False, repr=False)

    @property
    def function_name(self) -> str:
        """The function as `module:name`."""
        return self.function if isinstance(self.function, str) else self._declared.name

    @property
    def source_hash(self) -> str:
        """Hash of the function, empty where only its name is known."""
        return "" if isinstance(self.function, str) else self._declared.source_hash

    @property
    def _declared(self) -> declaration.Transformation:
        found = declaration.of(self.function)
        if found is None:
            rule = "must be declared with setpoint_features.transformation"
            raise errors.invalid(f"{self.name}.function", repr(self.function), rule)
        return found


@dataclass(frozen=True)
class FeatureSet(_Described):
    """The exact inputs that a model version is trained on and served with.

    Example:
        ```python
        flights = FeatureSet(
            "flights",
            [delays["late_share"], weather["wind"].named("wind_there", airport="destination")],
            request_fields=[RequestField("distance", DataType.FLOAT64)],
            derived=[Derived("miles_an_hour", speed)],
        )
        ```
    """

    name: str
    features: Sequence[Feature] = ()
    request_fields: Sequence[RequestField] = ()
    derived: Sequence[Derived] = ()


View = FeatureView | AggregateView
Definition = Entity | View | FeatureSet


@dataclass(frozen=True)
class Definitions:
    """Definitions that are applied together, in the order in which they were found."""

    entities: Sequence[Entity] = ()
    views: Sequence[FeatureView] = ()
    feature_sets: Sequence[FeatureSet] = ()
    aggregate_views: Sequence[AggregateView] = ()

    @classmethod
    def of(cls, found: Sequence[Definition]) -> "Definitions":
        """Sorts definitions by their kind."""
        return cls(
            [each for each in found if isinstance(each, Entity)],
            [each for each in found if isinstance(each, FeatureView)],
            [each for each in found if isinstance(each, FeatureSet)],
            [each for each in found if isinstance(each, AggregateView)],
        )

    def __len__(self) -> int:
        """Returns how many there are."""
        views = len(self.views) + len(self.aggregate_views)
        return len(self.entities) + views + len(self.feature_sets)
