"""Every service that remembers requests forgets them in time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from tests.support import waiting

from setpoint_batch import config as batch_config
from setpoint_batch import wiring as batch_wiring
from setpoint_db import engine as engines
from setpoint_feature import config as feature_config
from setpoint_feature import wiring as feature_wiring
from setpoint_registry import config as registry_config
from setpoint_registry import wiring as registry_wiring
from setpoint_retraining import config as retraining_config
from setpoint_retraining import wiring as retraining_wiring
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_runtime import ids
from setpoint_testkit import serving
from setpoint_validation import config as validation_config
from setpoint_validation import wiring as validation_wiring

SERVICES: dict[str, tuple[Any, Any, str]] = {
    "batch": (batch_wiring, batch_config.BatchSettings, "work_directory"),
    "feature": (feature_wiring, feature_config.FeatureSettings, "segment_url"),
    "registry": (registry_wiring, registry_config.RegistrySettings, "artifact_url"),
    "retraining": (retraining_wiring, retraining_config.RetrainingSettings, "work_directory"),
    "router": (router_wiring, router_config.RouterSettings, "spool_directory"),
    "validation": (validation_wiring, validation_config.ValidationSettings, ""),
}
NOBODY = "redis://127.0.0.1:1/0"
REMEMBER = sqlalchemy.text(
    "INSERT INTO requests (request_id, method, fingerprint, create_time)"
    " VALUES (:request_id, 'm', '', now() - make_interval(days => :days))"
)
REMEMBERED = sqlalchemy.text("SELECT extract(day FROM now() - create_time)::int FROM requests")


@pytest.mark.parametrize("service", SERVICES)
async def test_service_forgets_requests_after_a_month(
    service: str, migrated_url: Callable[[str], str], tmp_path: Path
) -> None:
    """By default; older ones go soon after the start, younger ones stay."""
    wiring, settings_type, folder = SERVICES[service]
    url = migrated_url(service)
    settings = {"database_url": url, **({folder: str(tmp_path)} if folder else {})}
    if service == "feature":
        settings["valkey_url"] = NOBODY
    database = engines.create_engine(url, application_name="test", schema=service)
    async with engines.transaction(database) as connection:
        for days in (29, 31, 400):
            await connection.execute(REMEMBER, {"request_id": ids.uuid7(), "days": days})

    async def remembered() -> list[int]:
        async with engines.transaction(database) as connection:
            return list((await connection.execute(REMEMBERED)).scalars())

    async with serving.serve(wiring.build, settings_type(**settings)):
        left = await waiting.until(remembered, lambda found: len(found) < 3)
    assert left == [29]
    await database.dispose()
