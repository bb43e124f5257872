"""What is computed about parcels: transformations, as a user's package holds them."""

from typing import Any

import numpy as np

from setpoint_features import DataType, transformation


@transformation(DataType.FLOAT64)
def queue_each(queue: Any, staff: Any) -> Any:
    """Parcels that wait for each who works there."""
    return queue / staff


@transformation(DataType.FLOAT64)
def effort(distance: Any, queue_each: Any) -> Any:
    """Of what the caller says and of what was computed before."""
    if not np.isfinite(distance).all():
        raise ValueError("a distance must be a number")
    return distance / 100.0 + queue_each
