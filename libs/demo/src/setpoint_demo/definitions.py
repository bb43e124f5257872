"""What the demo registers: entities, views, the feature set, the suite and the policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from setpoint.common.v1 import column_pb2, reference_pb2, value_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.retraining.v1 import retraining_pb2
from setpoint.validation.v1 import suite_pb2

MODEL = "flight_late"
ROUTE = "flight_late"
FEATURE_SET = "flight_features"
SUITE = "flight_requests"
POLICY = "flight_late"

_DOUBLE = column_pb2.DATA_TYPE_FLOAT64
_TEXT = column_pb2.DATA_TYPE_STRING
_INTEGER = column_pb2.DATA_TYPE_INT64
_BOOL = column_pb2.DATA_TYPE_BOOL
_MICROSECOND = timedelta(microseconds=1)


def _spec(
    name: str, dtype: column_pb2.DataType.ValueType, description: str
) -> reference_pb2.FieldSpec:
    return reference_pb2.FieldSpec(name=name, dtype=dtype, description=description)


ENTITIES: Sequence[definition_pb2.Entity] = (
    definition_pb2.Entity(
        name="carrier", keys=[_spec("carrier", _TEXT, "IATA code")], description="An airline"
    ),
    definition_pb2.Entity(
        name="origin",
        keys=[_spec("origin", _TEXT, "FAA code")],
        description="An airport to leave from",
    ),
    definition_pb2.Entity(
        name="aircraft", keys=[_spec("tailnum", _TEXT, "Tail number")], description="An aircraft"
    ),
    definition_pb2.Entity(
        name="flight", keys=[_spec("flight_id", _TEXT, "Id")], description="A scheduled flight"
    ),
)


def _field(
    name: str,
    description: str,
    dtype: column_pb2.DataType.ValueType = _DOUBLE,
    default: str | None = None,
) -> definition_pb2.FeatureField:
    field = definition_pb2.FeatureField(name=name, dtype=dtype, description=description)
    if default is not None:
        field.default_value.string_value = default
    return field


def _view(
    name: str,
    entity: str,
    description: str,
    fields: Sequence[definition_pb2.FeatureField],
    ttl: timedelta = timedelta(0),
) -> definition_pb2.FeatureView:
    return definition_pb2.FeatureView(
        name=name,
        entity=entity,
        description=description,
        owner="demo",
        fields=fields,
        ttl_microseconds=ttl // _MICROSECOND,
    )


_LATENESS = (
    _field("late_share_24h", "Share of late arrivals among flights landed in the last 24 hours"),
    _field("late_share_7d", "Share of late arrivals among flights landed in the last 7 days"),
    _field("landings_24h", "Flights landed in the last 24 hours"),
)

VIEWS: Sequence[definition_pb2.FeatureView] = (
    _view("carrier_lateness", "carrier", "How late a carrier has been", _LATENESS),
    _view("origin_lateness", "origin", "How late flights from an airport have been", _LATENESS),
    _view(
        "weather",
        "origin",
        "Hourly weather as last observed",
        (
            _field("temp", "Temperature, degrees Fahrenheit"),
            _field("dewp", "Dew point, degrees Fahrenheit"),
            _field("humid", "Relative humidity, percent"),
            _field("wind_speed", "Wind speed, miles per hour"),
            _field("wind_gust", "Gust speed, miles per hour"),
            _field("precip", "Precipitation, inches"),
            _field("pressure", "Sea level pressure, millibars"),
            _field("visib", "Visibility, miles"),
        ),
        ttl=timedelta(hours=6),
    ),
    _view(
        "last_landing",
        "aircraft",
        "The aircraft's previous flight, once it has landed",
        (_field("previous_arrival_delay", "Minutes after schedule"),),
        ttl=timedelta(hours=12),
    ),
    _view(
        "aircraft",
        "aircraft",
        "The aircraft register",
        (
            _field("built_year", "Year of manufacture"),
            _field("seats", "Seats"),
            _field("engines", "Engines"),
            _field("aircraft_type", "Kind of aircraft", _TEXT, default="unknown"),
        ),
    ),
    _view(
        "scheduled_flight",
        "flight",
        "The question: a flight about to leave",
        (
            _field("carrier", "Airline", _TEXT),
            _field("origin", "Airport to leave from", _TEXT),
            _field("destination", "Airport to arrive at", _TEXT),
            _field("tailnum", "Aircraft", _TEXT),
            _field("scheduled_hour", "Local hour of scheduled departure", _INTEGER),
            _field("weekday", "1 is Monday", _INTEGER),
            _field("distance", "Miles"),
        ),
    ),
    _view(
        "departed_flight",
        "flight",
        "Known once the flight has left: a leak for the question asked before",
        (_field("departure_delay", "Minutes after schedule"),),
    ),
    _view(
        "landed_flight",
        "flight",
        "The answer, known once the flight has landed",
        (
            _field("late", "Arrived more than 15 minutes after schedule", _BOOL),
            _field("arrival_delay", "Minutes after schedule"),
        ),
    ),
)

_FEATURES = (
    ("carrier_lateness", "late_share_24h", "carrier_late_share_24h"),
    ("carrier_lateness", "late_share_7d", "carrier_late_share_7d"),
    ("origin_lateness", "late_share_24h", "origin_late_share_24h"),
    ("origin_lateness", "late_share_7d", "origin_late_share_7d"),
    ("weather", "temp", ""),
    ("weather", "dewp", ""),
    ("weather", "humid", ""),
    ("weather", "wind_speed", ""),
    ("weather", "wind_gust", ""),
    ("weather", "precip", ""),
    ("weather", "pressure", ""),
    ("weather", "visib", ""),
    ("last_landing", "previous_arrival_delay", ""),
    ("aircraft", "built_year", ""),
    ("aircraft", "seats", ""),
    ("aircraft", "aircraft_type", ""),
)

REQUEST_FIELDS = ("carrier", "origin", "destination", "scheduled_hour", "weekday", "distance")


def feature_set(*extra: tuple[str, str, str]) -> definition_pb2.FeatureSet:
    """Makes the feature set of the question, with further (view, field, alias) triples on demand."""
    return definition_pb2.FeatureSet(
        name=FEATURE_SET,
        description="What is known about a flight at the last full hour before its departure",
        features=[
            definition_pb2.FeatureReference(view=view, field=field, alias=alias)
            for view, field, alias in (*_FEATURES, *extra)
        ],
        request_fields=[
            _spec("carrier", _TEXT, "Airline"),
            _spec("origin", _TEXT, "Airport to leave from"),
            _spec("destination", _TEXT, "Airport to arrive at"),
            _spec("scheduled_hour", _INTEGER, "Local hour of scheduled departure"),
            _spec("weekday", _INTEGER, "1 is Monday"),
            _spec("distance", _DOUBLE, "Miles"),
        ],
    )


def suite() -> suite_pb2.Suite:
    """Makes the rules that every request for the feature set must pass."""
    reject = suite_pb2.SEVERITY_REJECT
    flag = suite_pb2.SEVERITY_FLAG
    origins = [value_pb2.Value(string_value=code) for code in ("EWR", "JFK", "LGA")]
    return suite_pb2.Suite(
        name=SUITE,
        feature_set=FEATURE_SET,
        description="What a request about a flight must look like",
        rules=[
            suite_pb2.Rule(severity=reject, not_null=suite_pb2.NotNullRule(column="carrier")),
            suite_pb2.Rule(severity=reject, set=suite_pb2.SetRule(column="origin", values=origins)),
            suite_pb2.Rule(
                severity=reject,
                regex=suite_pb2.RegexRule(column="destination", pattern="^[A-Z]{3}$"),
            ),
            suite_pb2.Rule(
                severity=reject, range=suite_pb2.RangeRule(column="scheduled_hour", min=0, max=23)
            ),
            suite_pb2.Rule(
                severity=reject, range=suite_pb2.RangeRule(column="weekday", min=1, max=7)
            ),
            suite_pb2.Rule(
                severity=reject,
                range=suite_pb2.RangeRule(column="distance", min=0, max=6000, strict_min=True),
            ),
            suite_pb2.Rule(
                severity=flag, range=suite_pb2.RangeRule(column="temp", min=-30, max=115)
            ),
        ],
    )


def policy(rollout: Sequence[retraining_pb2.RolloutStep]) -> retraining_pb2.Policy:
    """Makes the retraining policy: everything known so far, the last two weeks held out."""
    return retraining_pb2.Policy(
        name=POLICY,
        model=MODEL,
        route=ROUTE,
        feature_set=FEATURE_SET,
        question_view="scheduled_flight",
        label_view="landed_flight",
        label_field="late",
        lookback_microseconds=timedelta(days=366) // _MICROSECOND,
        holdout_microseconds=timedelta(days=14) // _MICROSECOND,
        gap_microseconds=timedelta(days=1) // _MICROSECOND,
        trainer="hist_gradient_boosting",
        gate_metric="log_loss",
        gate_tolerance=0.0,
        suite=SUITE,
        rollout_steps=rollout,
    )
