"""Features as code.

Entities, views and feature sets are plain objects in a package of yours (or YAML files, see
`setpoint_features.loading`), and are applied with `setpoint features apply`. Transformations are plain
functions in a package that the feature service imports too, so that training and serving run the same code.
"""

from setpoint_columns import DataType
from setpoint_features.declaration import Transformation, transformation
from setpoint_features.definitions import (
    Aggregate,
    AggregateView,
    Definitions,
    Derived,
    Entity,
    Feature,
    FeatureSet,
    FeatureView,
    Field,
    Location,
    RequestField,
)

__all__ = [
    "Aggregate",
    "AggregateView",
    "DataType",
    "Definitions",
    "Derived",
    "Entity",
    "Feature",
    "FeatureSet",
    "FeatureView",
    "Field",
    "Location",
    "RequestField",
    "Transformation",
    "transformation",
]
