"""A small world with a known truth: parcels that leave depots and arrive late, or not.

How likely a parcel is late depends on what is known when it leaves, by a formula; `Day` draws the
days of that world. On miswired days the depots' counters run backwards, so that a model trained on
them is wrong as soon as they are repaired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from setpoint.common.v1 import column_pb2, reference_pb2, value_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.retraining.v1 import retraining_pb2
from setpoint.validation.v1 import suite_pb2

MODEL = "parcel_late"
ROUTE = "parcel_late"
FEATURE_SET = "parcel_features"
SUITE = "parcel_requests"
POLICY = "parcel_late"

DEPOTS = ("aachen", "bremen", "celle", "dessau", "erfurt", "fulda")
CREWS = tuple(f"crew-{number}" for number in range(len(DEPOTS)))
"""One for each depot."""

SILENT = CREWS[-1]
"""The crew that never tells how many of it are sick."""

KINDS = ("box", "letter", "pallet")
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1) // MICROSECOND
DAY = timedelta(days=1) // MICROSECOND
BEGIN_US = (BEGIN - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
DELIVERY = 6 * HOUR
PARCELS_A_DAY = 250
SICK_SHARE_DEFAULT = 0.05

_DOUBLE = column_pb2.DATA_TYPE_FLOAT64
_TEXT = column_pb2.DATA_TYPE_STRING
_INTEGER = column_pb2.DATA_TYPE_INT64
_BOOL = column_pb2.DATA_TYPE_BOOL


def midnight(day: int) -> int:
    """Returns when a day begins, in microseconds UTC; day 0 is the first."""
    return BEGIN_US + day * DAY


def _spec(name: str, dtype: column_pb2.DataType.ValueType) -> reference_pb2.FieldSpec:
    return reference_pb2.FieldSpec(name=name, dtype=dtype)


ENTITIES: Sequence[definition_pb2.Entity] = (
    definition_pb2.Entity(name="depot", keys=[_spec("depot", _TEXT)]),
    definition_pb2.Entity(name="crew", keys=[_spec("crew", _TEXT)]),
    definition_pb2.Entity(name="parcel", keys=[_spec("parcel_id", _TEXT)]),
)


def _view(
    name: str,
    entity: str,
    fields: Sequence[definition_pb2.FeatureField],
    ttl: timedelta = timedelta(0),
) -> definition_pb2.FeatureView:
    return definition_pb2.FeatureView(
        name=name, entity=entity, fields=fields, ttl_microseconds=ttl // MICROSECOND
    )


VIEWS: Sequence[definition_pb2.FeatureView] = (
    _view(
        "depot_load",
        "depot",
        (
            definition_pb2.FeatureField(name="queue", dtype=_DOUBLE),
            definition_pb2.FeatureField(name="staff", dtype=_DOUBLE),
        ),
        ttl=timedelta(hours=3),
    ),
    _view(
        "crew_health",
        "crew",
        (
            definition_pb2.FeatureField(
                name="sick_share",
                dtype=_DOUBLE,
                sensitive=True,
                default_value=value_pb2.Value(double_value=SICK_SHARE_DEFAULT),
            ),
        ),
    ),
    _view(
        "parcel_sent",
        "parcel",
        (
            definition_pb2.FeatureField(name="depot", dtype=_TEXT),
            definition_pb2.FeatureField(name="crew", dtype=_TEXT),
            definition_pb2.FeatureField(name="distance", dtype=_DOUBLE),
            definition_pb2.FeatureField(name="kind", dtype=_TEXT),
            definition_pb2.FeatureField(name="hour", dtype=_INTEGER),
        ),
    ),
    _view(
        "parcel_arrived",
        "parcel",
        (definition_pb2.FeatureField(name="late", dtype=_BOOL),),
    ),
)

FEATURES = ("queue", "staff", "sick_share")
REQUEST_FIELDS = ("distance", "kind", "hour")


def feature_set() -> definition_pb2.FeatureSet:
    """Makes the feature set of the question whether a parcel will be late."""
    return definition_pb2.FeatureSet(
        name=FEATURE_SET,
        features=[
            definition_pb2.FeatureReference(view="depot_load", field="queue"),
            definition_pb2.FeatureReference(view="depot_load", field="staff"),
            definition_pb2.FeatureReference(view="crew_health", field="sick_share"),
        ],
        request_fields=[_spec("distance", _DOUBLE), _spec("kind", _TEXT), _spec("hour", _INTEGER)],
    )


def suite() -> suite_pb2.Suite:
    """Makes the rules for requests: two that refuse, one that flags."""
    kinds = [value_pb2.Value(string_value=kind) for kind in KINDS]
    return suite_pb2.Suite(
        name=SUITE,
        feature_set=FEATURE_SET,
        rules=[
            suite_pb2.Rule(
                severity=suite_pb2.SEVERITY_REJECT,
                range=suite_pb2.RangeRule(column="distance", min=0, max=5_000),
            ),
            suite_pb2.Rule(
                severity=suite_pb2.SEVERITY_REJECT,
                set=suite_pb2.SetRule(column="kind", values=kinds),
            ),
            suite_pb2.Rule(
                severity=suite_pb2.SEVERITY_FLAG,
                range=suite_pb2.RangeRule(column="distance", min=0, max=2_000),
            ),
        ],
    )


def policy(name: str = POLICY, **parameters: str) -> retraining_pb2.Policy:
    """Makes a policy: three days held out, half of the traffic for a day, then all.

    Args:
        name: Name of the policy.
        **parameters: Parameters of the trainer beside the usual ones.
    """
    return retraining_pb2.Policy(
        name=name,
        model=MODEL,
        route=ROUTE,
        feature_set=FEATURE_SET,
        question_view="parcel_sent",
        label_view="parcel_arrived",
        label_field="late",
        lookback_microseconds=60 * DAY,
        holdout_microseconds=3 * DAY,
        gap_microseconds=DELIVERY,
        trainer_parameters={"max_iter": "40", "min_samples_leaf": "20", **parameters},
        suite=SUITE,
        # Chance may make a good version a little worse on 750 rows; a wrong one is far off.
        gate_tolerance=0.05,
        minimum_rows=500,
        rollout_steps=[
            retraining_pb2.RolloutStep(
                basis_points=5_000, hold_microseconds=DAY, minimum_predictions=50
            ),
            retraining_pb2.RolloutStep(basis_points=10_000),
        ],
    )


@dataclass(frozen=True, slots=True)
class Parcel:
    """One question and, as the world knows, its answer."""

    parcel_id: str
    depot: str
    crew: str
    distance: float
    kind: str
    hour: int
    sent_time: int
    late: bool

    @property
    def entities(self) -> dict[str, Any]:
        """The keys of a prediction about it."""
        return {"depot": self.depot, "crew": self.crew}

    @property
    def inputs(self) -> dict[str, Any]:
        """What the caller of a prediction knows."""
        return {name: getattr(self, name) for name in REQUEST_FIELDS}


class Day:
    """What happens on one day; the same number always gives the same day.

    Args:
        number: The day, from 0.
        is_miswired: The counters of the depots run backwards.
    """

    def __init__(self, number: int, *, is_miswired: bool = False) -> None:
        self.number = number
        random = np.random.default_rng([2024, number])
        shape = (24, len(DEPOTS))
        self._queue = np.round(random.normal(60, 30, shape).clip(0, 150))
        self._staff = np.round(random.normal(10, 3, shape).clip(2, 20))
        self._sick_share = random.uniform(0, 0.2, len(DEPOTS)).round(3)
        self._shown_queue = 150 - self._queue if is_miswired else self._queue
        self.parcels = [self._parcel(place, random) for place in range(PARCELS_A_DAY)]

    def _parcel(self, place: int, random: np.random.Generator) -> Parcel:
        second = int(random.integers(24 * 3_600))
        hour, depot = second // 3_600, int(random.integers(len(DEPOTS)))
        distance = float(random.uniform(10, 1_000).__round__(1))
        kind = KINDS[int(random.integers(len(KINDS)))]
        tendency = (
            (self._queue[hour, depot] - 60) / 12
            + (distance - 500) / 400
            - (self._staff[hour, depot] - 10) / 5
            + (0.7 if kind == "pallet" else 0.0)
            - 0.5
        )
        return Parcel(
            parcel_id=f"p{self.number:03d}-{place:04d}",
            depot=DEPOTS[depot],
            crew=CREWS[depot],
            distance=distance,
            kind=kind,
            hour=hour,
            sent_time=midnight(self.number) + second * 1_000_000,
            late=bool(random.random() < 1 / (1 + np.exp(-tendency))),
        )

    def loads(self) -> pl.DataFrame:
        """Returns the rows of `depot_load`: each hour's counters, known when the hour begins."""
        hours = np.arange(24)
        times = np.repeat(midnight(self.number) + hours * HOUR, len(DEPOTS))
        return _frame(
            times,
            times,
            depot=list(DEPOTS) * 24,
            queue=self._shown_queue.ravel(),
            staff=self._staff.ravel(),
        )

    def crews(self) -> pl.DataFrame:
        """Returns the rows of `crew_health`, of all crews but one."""
        told = len(CREWS) - 1
        times = np.full(told, midnight(self.number))
        return _frame(times, times, crew=CREWS[:told], sick_share=self._sick_share[:told])

    def sent(self) -> pl.DataFrame:
        """Returns the rows of `parcel_sent`."""
        times = np.array([parcel.sent_time for parcel in self.parcels])
        names = ("parcel_id", "depot", "crew", *REQUEST_FIELDS)
        return _frame(
            times, times, **{name: [getattr(each, name) for each in self.parcels] for name in names}
        )

    def arrived(self) -> pl.DataFrame:
        """Returns the rows of `parcel_arrived`, known when the parcel arrives."""
        times = np.array([parcel.sent_time for parcel in self.parcels]) + DELIVERY
        return _frame(
            times,
            times,
            parcel_id=[each.parcel_id for each in self.parcels],
            late=[each.late for each in self.parcels],
        )

    def frames(self) -> dict[str, pl.DataFrame]:
        """Returns the rows of every view."""
        return {
            "depot_load": self.loads(),
            "crew_health": self.crews(),
            "parcel_sent": self.sent(),
            "parcel_arrived": self.arrived(),
        }


def _frame(event_times: Any, created_times: Any, **columns: Any) -> pl.DataFrame:
    times = {"event_time": event_times, "created_time": created_times}
    frame = pl.DataFrame({**columns, **times})
    return frame.with_columns(
        pl.col(*times).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
    )
