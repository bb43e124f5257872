"""How good the answers were, month by month, and how good the first version's would have been."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2
from setpoint.inference.v1 import inference_service_pb2
from setpoint_client.stubs import AsyncStubs
from setpoint_columns import Columns, interop, proto
from setpoint_demo import definitions
from setpoint_demo.replay import SCORE_COLUMN

PIECE_ROWS = 10_000
TIMEOUT_SECONDS = 60.0

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of scores on labelled rows; lower log loss is better, higher area is better."""

    log_loss: float
    roc_auc: float
    rows: int


def measure(scores: Scores, labels: npt.NDArray[np.bool_]) -> Quality:
    """Measures the log loss and the area under the ROC curve (ties counted half)."""
    kept = np.clip(scores, 1e-7, 1 - 1e-7)
    log_loss = float(-np.mean(np.where(labels, np.log(kept), np.log1p(-kept))))
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return Quality(log_loss, float("nan"), len(labels))
    ranks = pl.Series(scores).rank("average").to_numpy()
    area = (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return Quality(log_loss, float(area), len(labels))


async def scores_of_version(services: AsyncStubs, questions: pl.DataFrame, version: int) -> Scores:
    """Asks one version about flights again, with the features as known at the time of each question.

    Args:
        services: The running stack.
        questions: Flights with the keys, the request fields and ``question_time``.
        version: The version to ask.

    Returns:
        One probability for each row.
    """
    spine = questions.select(
        "carrier",
        "origin",
        "tailnum",
        pl.col("question_time").dt.replace_time_zone("UTC").alias("event_time"),
    )
    features = await _historical(services, spine)
    scores = [
        await _predict(
            services,
            features.slice(start, min(start + PIECE_ROWS, questions.height)),
            questions.slice(start, PIECE_ROWS),
            version,
        )
        for start in range(0, questions.height, PIECE_ROWS)
    ]
    return np.concatenate(scores) if scores else np.empty(0)


async def _historical(services: AsyncStubs, spine: pl.DataFrame) -> Columns:
    """Returns the features of each spine row; a piece may be answered in several messages."""
    requests = [
        feature_service_pb2.GetHistoricalFeaturesRequest(
            feature_set=reference_pb2.FeatureSetReference(name=definitions.FEATURE_SET),
            spine=proto.to_proto(interop.from_polars(piece)),
        )
        for piece in spine.iter_slices(PIECE_ROWS)
    ]
    call = services.feature.GetHistoricalFeatures(iter(requests), timeout=TIMEOUT_SECONDS)
    parts = [proto.from_proto(response.features) async for response in call]
    return Columns.concat(parts) if parts else Columns(0)


async def _predict(
    services: AsyncStubs, features: Columns, questions: pl.DataFrame, version: int
) -> Scores:
    given = interop.from_polars(questions.select(definitions.REQUEST_FIELDS))
    inputs = Columns(features.rows, [*features.columns, *given.columns])
    response = await services.inference.Predict(
        inference_service_pb2.PredictRequest(
            model_version=reference_pb2.ModelVersionReference(
                model=definitions.MODEL, version=version
            ),
            inputs=proto.to_proto(inputs),
        ),
        timeout=TIMEOUT_SECONDS,
    )
    return proto.from_proto(response.outputs)[SCORE_COLUMN].to_numpy().astype(np.float64)
