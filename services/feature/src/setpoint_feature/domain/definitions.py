"""What people define: entities, views and feature sets, as immutable values."""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from setpoint_columns import DataType
from setpoint_feature.domain import aggregation as aggregations

EVENT_TIME = "event_time"
CREATED_TIME = "created_time"
RESERVED_COLUMNS = frozenset({EVENT_TIME, CREATED_TIME})
"""Columns of every write and read of a view, so no key or field may have their names."""

KEY_TYPES = frozenset({DataType.INT32, DataType.INT64, DataType.STRING})
INTEGER_KEY_TYPES = frozenset({DataType.INT32, DataType.INT64})

DefaultValue = bool | int | float | str
Tags = Mapping[str, str]


class Boundary(enum.Enum):
    """Whether a value whose event time equals the asked time is seen."""

    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"


class Status(enum.IntEnum):
    """Where a served value comes from; the numbers equal those of the protocol's enum."""

    FRESH = 1
    STALE = 2
    MISSING = 3
    DEFAULT = 4
    GIVEN = 5


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A named, typed column of an entity's key or of a request."""

    name: str
    dtype: DataType
    description: str = ""


@dataclass(frozen=True, slots=True)
class Entity:
    """A kind of thing that features describe."""

    name: str
    keys: tuple[FieldSpec, ...]
    description: str = ""
    create_time: int = 0
    owner: str = ""
    tags: Tags = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a view."""

    name: str
    dtype: DataType
    default: DefaultValue | None = None
    sensitive: bool = False
    description: str = ""
    tags: Tags = dataclasses.field(default_factory=dict)
    finite: bool = False
    """NaN and infinite values are refused; of floats alone."""


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Fields of one entity that become true together at an event time."""

    name: str
    entity: str
    fields: tuple[Field, ...]
    ttl: int = 0
    """Microseconds; 0 means that values never become stale."""
    boundary: Boundary = Boundary.INCLUSIVE
    retention: int = 0
    """Microseconds for which joins stay exact; 0 means for ever. Not part of the version."""
    keys: tuple[FieldSpec, ...] = ()
    """The entity's keys, bound at registration."""
    description: str = ""
    owner: str = ""
    version: str = ""
    create_time: int = 0
    tags: Tags = dataclasses.field(default_factory=dict)
    aggregation: aggregations.Aggregation | None = None
    """Set where the values are computed over windows of another view's rows instead of written."""

    def field_index(self, name: str) -> int | None:
        """Returns the position of a field, or None when the view has no such field."""
        for index, each in enumerate(self.fields):
            if each.name == name:
                return index
        return None


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """One field of a view as a column of a feature set."""

    view: str
    field: str
    alias: str = ""
    """As asked for; empty means the field's name."""
    key_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Entity key to request column, where they differ."""
    view_version: str = ""
    dtype: DataType | None = None

    @property
    def column(self) -> str:
        """Name of the column in the set."""
        return self.alias or self.field


@dataclass(frozen=True, slots=True)
class Transformation:
    """A column of a feature set that a function computes from other columns."""

    name: str
    function: str
    """`module:name`."""
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Parameter to column; bound at registration, when every parameter has one."""
    dtype: DataType | None = None
    source_hash: str = ""
    source: str = ""
    """As it was registered, for people."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The exact inputs that a model version is trained on and served with."""

    name: str
    features: tuple[FeatureReference, ...]
    request_fields: tuple[FieldSpec, ...] = ()
    description: str = ""
    version: str = ""
    create_time: int = 0
    owner: str = ""
    tags: Tags = dataclasses.field(default_factory=dict)
    transformations: tuple[Transformation, ...] = ()


Definition = Entity | FeatureView | FeatureSet
