import inspect
import subprocess
import sys

import setpoint_client
from setpoint_client import AsyncClient, Client

_PUBLIC = {
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
}
_METHODS = {
    "close",
    "explain_assignment",
    "get_historical_features",
    "get_online_features",
    "get_prediction",
    "predict",
    "predict_batch",
    "predict_batches",
    "predict_stream",
    "record_outcome",
    "record_outcomes",
    "stream_features",
    "write_features",
}
_STREAMS = {"predict_batches", "predict_stream", "stream_features"}


def test_public_names_are_these() -> None:
    """A public name comes or goes on purpose only."""
    assert set(setpoint_client.__all__) == _PUBLIC
    assert all(getattr(setpoint_client, name, None) is not None for name in _PUBLIC)


def test_both_clients_have_the_same_methods() -> None:
    """Whatever one client can do the other can, with the same parameters."""
    for kind in (Client, AsyncClient):
        assert {name for name in vars(kind) if not name.startswith("_")} == _METHODS
    for name in _METHODS:
        sync, other = getattr(Client, name), getattr(AsyncClient, name)
        assert _parameters(sync) == _parameters(other)
        if name in _STREAMS:
            assert inspect.isgeneratorfunction(sync)
            assert inspect.isasyncgenfunction(other)
        else:
            assert inspect.signature(sync) == inspect.signature(other)
            assert inspect.iscoroutinefunction(other)
        assert inspect.getdoc(sync) == inspect.getdoc(other)


def _parameters(method: object) -> list[tuple[object, ...]]:
    """Returns names, kinds and defaults; iterables are of two types."""
    assert callable(method)
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_import_is_light() -> None:
    """The client does not bring the servers' libraries or any frame library with it."""
    script = (
        "import sys, setpoint_client\n"
        "heavy = {'pandas', 'polars', 'pyarrow', 'structlog', 'opentelemetry', 'prometheus_client',"
        " 'setpoint_rpc', 'setpoint_telemetry', 'pydantic', 'uvloop'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
