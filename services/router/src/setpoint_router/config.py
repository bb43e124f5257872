"""Settings of the router, from `SETPOINT_ROUTER_*`."""

import re

from pydantic import Field, field_validator

from setpoint_runtime import settings

_MEBIBYTE = 1024 * 1024
_METADATA_KEY = re.compile(r"[a-z0-9_.-]{1,64}")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


class RouterSettings(settings.RememberingSettings):
    """What the router can be told."""

    model_config = settings.settings_config("router")

    port: int = Field(default=7400, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; the router keeps to the schema `router` in it."""

    inference_address: str = "127.0.0.1:7401"
    """Where models run: `host:port`, several of them with commas, or `dns:///name:port` for every
    address behind a name. Each is a replica of its own."""

    feature_address: str = "127.0.0.1:7402"
    """Where features come from."""

    validation_address: str = "127.0.0.1:7403"
    """Where rules come from; empty for none, and then nothing is flagged as unchecked."""

    monitoring_address: str = "127.0.0.1:7404"
    """Where records go."""

    registry_address: str = "127.0.0.1:7406"
    """Who knows the versions; asked when a route changes, never for a prediction."""

    spool_directory: str = "var/router/spool"
    """Folder of the records that monitoring has not confirmed yet, on a local disk that outlives
    the process; one for each router."""

    spool_cap_bytes: int = Field(default=4096 * _MEBIBYTE, ge=1 * _MEBIBYTE)
    """Most bytes of the spool; what happens beyond is the policy of each route."""

    commit_interval_seconds: float = Field(default=0.0, ge=0, le=0.010)
    """Least time between two syncs of the spool: a larger one spares the disk under load. A record
    that comes after a pause is synced at once."""

    ship_interval_seconds: float = Field(default=0.1, ge=0)
    """Least time between two calls to monitoring."""

    features_seconds: float = Field(default=0.15, gt=0)
    """Longest time for a call for features."""

    inference_seconds: float = Field(default=5.0, gt=0)
    """Longest time for a call of a model; the callers' deadlines are mostly shorter."""

    inference_copies: int = Field(default=3, ge=1)
    """Replicas that hold a version, all when there are fewer; the others load it when they must."""

    inference_load_factor: float = Field(default=1.25, ge=1)
    """Most rows in flight on a replica, as a multiple of the mean of those that hold the version."""

    inference_failures: int = Field(default=5, ge=1)
    """Consecutive calls that a replica lets fail, by not answering, before it is left out."""

    inference_ejection_seconds: float = Field(default=10.0, gt=0)
    """How long a replica is left out the first time; twice as long the second time, and so on, at
    most 300 s. It comes back once it answers."""

    inference_ejected_share: float = Field(default=0.5, ge=0, le=1)
    """Most of the replicas that may be left out at once; one may while another is there."""

    inference_stall_seconds: float = Field(default=0.5, gt=0)
    """A replica whose calls do not end, and that does not say in this time that it lives, is left
    out, and its calls go elsewhere. A slow model is no sign of that."""

    inference_retry_share: float = Field(default=0.2, ge=0, le=1)
    """Most repetitions at once, as a share of the calls in flight; further ones wait for a turn."""

    inference_retry_minimum: int = Field(default=3, ge=1)
    """So many repetitions at once are always allowed."""

    inference_hedge_seconds: float = Field(default=0.0, ge=0)
    """A call that takes longer is made a second time on another replica; 0 for never."""

    inference_hedge_quantile: float = Field(default=0.0, ge=0, lt=1)
    """The same after this quantile of the version's last calls, such as 0.95, and at least after
    `inference_hedge_seconds`; 0 for never."""

    inference_resolve_seconds: float = Field(default=5.0, gt=0)
    """How often DNS names in `inference_address` are looked up again."""

    inference_lease_seconds: float = Field(default=300.0, ge=1)
    """How long inference keeps a version after no route here needs it any more and nobody calls it.
    A way back to it is quick for as long."""

    calls_at_once: int = Field(default=2, ge=1)
    """Shared calls in flight for each version on each of its replicas, and for each feature set."""

    batch_rows: int = Field(default=256, ge=1)
    """Most predictions that share a call."""

    queued_rows: int = Field(default=4096, ge=1)
    """Most predictions that wait for a call of one version; further ones are refused."""

    waiting_predictions: int = Field(default=4096, ge=1)
    """Most predictions on their way in the whole process; further ones are refused. Below it the
    limit follows the latency."""

    waiting_predictions_least: int = Field(default=32, ge=1)
    """So many predictions may always be on their way, however slow the versions are."""

    latency_tolerance_seconds: float = Field(default=0.1, gt=0)
    """What the fastest predictions may take under load before fewer are let in; of slow versions
    twice their latency without load."""

    batches_at_once: int = Field(default=8, ge=1)
    """Most calls of PredictBatch at once; further ones are refused."""

    shadow_queued_rows: int = Field(default=2048, ge=1)
    """Most copies that wait for a shadow; further ones are dropped and counted."""

    shadow_yields_to_predictions: int = Field(default=64, ge=0)
    """Shadows are asked while no more predictions than this are on their way; else their copies are
    dropped and counted. At a few milliseconds each, more mean that somebody waits in a queue."""

    stream_questions: int = Field(default=64, ge=1)
    """Most questions of one PredictStream that are worked on at once."""

    replay_seconds: float = Field(default=600.0, gt=0)
    """How long the answer to a request with a request_id is remembered."""

    replay_entries: int = Field(default=20_000, ge=1)
    """Most answers remembered; the oldest go first, and are counted."""

    replay_bytes: int = Field(default=64 * _MEBIBYTE, ge=1)
    """Most bytes of answers remembered."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often routes changed by other replicas are looked for."""

    flush_seconds: float = Field(default=2.0, ge=0)
    """How long records are still shipped when the router stops; the rest stays in the spool."""

    recorded_headers: tuple[str, ...] = ()
    """Metadata of callers' requests that their records keep, as JSON, such as `["x-request-id"]`; at
    most 256 characters of each."""

    spans_with_values: bool = True
    """Show the inputs that are not sensitive in spans; without them spans cost less."""

    @field_validator("recorded_headers")
    @classmethod
    def _check_headers(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if not _METADATA_KEY.fullmatch(key) or key.endswith("-bin"):
                raise ValueError(f"{key!r} is no key of metadata in text, in lower case")
            if key in _SECRET_HEADERS:
                raise ValueError(f"{key!r} holds secrets, which no record may keep")
        return keys
