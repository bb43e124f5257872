"""Predict over the wire, among doubles of the other services."""

import asyncio
from typing import Any


async def test_predict_answers_full_path(router: Any) -> None:
    """Shows that features are fetched, the model runs, and the record reaches monitoring."""
    answer = await router.predict()
    assert answer.outputs["score"].double_value == 1e6 + 2 + ord("U") + ord("A") + 8
    assert answer.assignment.route == "flights"
    assert answer.assignment.route_revision == 1
    assert answer.feature_set.name == "flight"
    assert not answer.degradations
    for _ in range(100):
        if answer.prediction_id in router.peers.ingest.ids:
            break
        await asyncio.sleep(0.02)
    row = router.peers.ingest.row(answer.prediction_id)
    assert row["status"] == 0
    assert row["inputs"]["hour"] == 8
