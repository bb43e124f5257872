"""Client of Setpoint for Python programs, async (`AsyncClient`) and sync (`Client`).

Every call has a deadline and fails with a typed error that carries the server's reason. Calls that may
safely be repeated are, when the server is unavailable, a few times and with growing pauses; a prediction
never is, because each one is recorded. Frames go in as pandas, polars, Arrow or `Columns` and come out as
what went in. Everything else the services offer is reached through `stubs`, the generated classes on the
client's own channels.
"""

from setpoint_client.async_client import AsyncClient
from setpoint_client.failures import typed_error
from setpoint_client.options import ClientSettings, RetryPolicy
from setpoint_client.results import (
    Answer,
    Assignment,
    BatchPredictions,
    Degradation,
    FeatureSetVersion,
    FeatureValues,
    IngestResult,
    InputProvenance,
    Outcome,
    Prediction,
    PredictionStory,
    Question,
    RowError,
    WriteResult,
)
from setpoint_client.sync_client import Client
from setpoint_columns import Column, Columns, DataType
from setpoint_runtime import errors

__all__ = [
    "Answer",
    "Assignment",
    "AsyncClient",
    "BatchPredictions",
    "Client",
    "ClientSettings",
    "Column",
    "Columns",
    "DataType",
    "Degradation",
    "FeatureSetVersion",
    "FeatureValues",
    "IngestResult",
    "InputProvenance",
    "Outcome",
    "Prediction",
    "PredictionStory",
    "Question",
    "RetryPolicy",
    "RowError",
    "WriteResult",
    "errors",
    "typed_error",
]
