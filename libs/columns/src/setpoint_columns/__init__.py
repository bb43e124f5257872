"""Typed columns of rows in the Arrow buffer layout, with numpy alone.

One columnar form carries rows everywhere in Setpoint: a single prediction, a batch, a training set, a
data-quality check. A `Column` is a name, a `DataType` and read-only numpy arrays; `Columns` are columns
of equal length. Bytes from outside enter through `setpoint_columns.proto`, which checks them fully;
frames enter through `setpoint_columns.interop`. Neither is imported here, so that domain code can
use columns without protobuf, polars, pyarrow or pandas.
"""

from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import MAX_NAME_LENGTH, MAX_ROWS, DataType

__all__ = ["MAX_NAME_LENGTH", "MAX_ROWS", "Column", "Columns", "DataType"]
