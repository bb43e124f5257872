"""Bytes that were written by an earlier release mean the same to this one.

Requests of old clients arrive, and prediction records lie in spools, for as long as anybody keeps
them. The bytes below were written once and are never regenerated: when one of these tests fails,
the contract has changed, not the test.
"""

import numpy as np

from setpoint.common.v1 import column_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import router_service_pb2

PREDICT_REQUEST = (
    "0a07666c696768747312064e31343232381a170a0b7461696c5f6e756d62657212082a064e31343232382880d0"
    "f08af3c6b402"
)
PREDICTION_RECORDS = (
    "0a07666c696768747310031a080a046c617465100222160a0a64657061727475726573120839663836643038312a"
    "25080112210a0d70726564696374696f6e5f696410061a0430313933220800000000040000003a1d080112190a08"
    "64697374616e636510051a08000000000000f03f2a01014201014a08ffffffffffffffff5a08726f757465722d31"
    "6203616765"
)


def test_old_predict_request_is_understood() -> None:
    """Proves that a request of an old client asks for what it asked for then."""
    request = router_service_pb2.PredictRequest.FromString(bytes.fromhex(PREDICT_REQUEST))
    assert request.route == "flights"
    assert request.assignment_key == "N14228"
    assert request.entities["tail_number"].string_value == "N14228"
    assert request.event_time == 1_357_034_400_000_000


def test_old_prediction_records_are_understood() -> None:
    """Proves that a spool of an old router can be shipped by a new one."""
    records = prediction_pb2.PredictionRecords.FromString(bytes.fromhex(PREDICTION_RECORDS))
    assert (records.route, records.route_revision, records.producer) == ("flights", 3, "router-1")
    assert (records.model_version.model, records.model_version.version) == ("late", 2)
    assert (records.feature_set.name, records.feature_set.version) == ("departures", "9f86d081")
    assert list(records.sensitive_inputs) == ["age"]
    assert np.frombuffer(records.input_event_times[0], "<i8").tolist() == [-1]


def test_old_columns_are_understood() -> None:
    """Proves that types, buffers and validity of columns have kept their numbers."""
    records = prediction_pb2.PredictionRecords.FromString(bytes.fromhex(PREDICTION_RECORDS))
    [identifier] = records.predictions.columns
    [distance] = records.inputs.columns
    assert identifier.dtype == column_pb2.DATA_TYPE_STRING
    assert np.frombuffer(identifier.offsets, "<i4").tolist() == [0, 4]
    assert identifier.values == b"0193"
    assert distance.dtype == column_pb2.DATA_TYPE_FLOAT64
    assert np.frombuffer(distance.values, "<f8").tolist() == [1.0]
    assert distance.validity == b"\x01"


def test_unknown_fields_survive() -> None:
    """Proves that a record passes through a release that does not know all of its fields."""
    newer = bytes.fromhex(PREDICTION_RECORDS) + bytes.fromhex("c23e03616263")
    records = prediction_pb2.PredictionRecords.FromString(newer)
    assert records.SerializeToString().endswith(bytes.fromhex("c23e03616263"))
