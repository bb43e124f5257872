"""Settings of the feature service."""

from pydantic import Field

from setpoint_runtime import settings as service_settings

_CENTURY = 100 * 366 * 86_400.0


class FeatureSettings(service_settings.RememberingSettings):
    """What the feature service can be told, as `SETPOINT_FEATURE_<FIELD>`."""

    model_config = service_settings.settings_config("feature")

    port: int = Field(default=7402, ge=0, le=65_535)
    """gRPC port; 0 lets the system choose one."""

    stream_seconds: float = Field(default=3_600.0, ge=0)
    """Joins, snapshots and streams of writes of many rows take minutes, and end by themselves."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL that holds definitions and history, in the schema `feature`."""

    valkey_url: str = "redis://127.0.0.1:6379/0"
    """Valkey or Redis that holds the online copies; it must not evict keys (`noeviction`). A cluster is
    `redis+cluster://host:port,host:port`, TLS `rediss://` or `rediss+cluster://`, a socket `unix://`."""

    modules: str = ""
    """Python modules with the transformations of feature sets, separated by commas; packages with all in them."""

    future_tolerance_seconds: float = Field(default=300.0, ge=0)
    """How far ahead of this service's clock written times may lie, since clocks differ."""

    online_read_timeout_seconds: float = Field(default=1.0, gt=0)
    """Longest wait for an online read; the caller's deadline is usually shorter."""

    online_write_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for one piece of an online update; it is caught up later otherwise."""

    online_parts: int = Field(default=32, ge=1, le=1024)
    """Into how many hash slots a Valkey cluster divides the copies of a view; a single server has no use
    for it. Another number means other keys: the copies are rebuilt."""

    standby_keys: int = Field(default=1_000, ge=0)
    """Most keys that one online read may look up in the history while there is no online copy."""

    standby_reads: int = Field(default=4, ge=1)
    """Most of these look-ups at once, which protects PostgreSQL when Valkey is down."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often definitions of other replicas are taken in and online copies are checked."""

    statement_seconds: float = Field(default=30.0, gt=0)
    """Longest time of one database statement of a batch write or a historical read."""

    segment_url: str = ""
    """Folder, by path or fsspec URL, of the segments into which older rows of the history move. All replicas
    share it, and a copy of the database needs one of its own. Empty keeps every row in PostgreSQL."""

    segment_rows: int = Field(default=1_000_000, ge=1)
    """Most rows of one segment."""

    segment_bytes: int = Field(default=128 << 20, ge=1, le=1 << 30)
    """About how large a segment may be, at most 1 GiB: rows are found in it by 32 bits. Making or merging
    one takes some four times as much memory."""

    recent_rows: int = Field(default=10_000, ge=0)
    """Rows of each view that stay in PostgreSQL."""

    move_rows: int = Field(default=40_000, ge=1)
    """Rows above `recent_rows` that make it worthwhile to move all of those."""

    compact_seconds: float = Field(default=10.0, gt=0)
    """How often rows are moved, segments merged and files cleaned away."""

    segment_grace_seconds: float = Field(default=900.0, ge=0)
    """How long a file stays that no segment refers to any more; longer than the longest read."""

    scratch_bytes: int = Field(default=16 << 30, ge=0)
    """Temporary disk space for segments made ready for reading, about."""

    whole_view_rows: int = Field(default=2_000_000, ge=0)
    """A historical join keeps whole views of up to so many rows together in memory; larger ones are
    read piece by piece. A row takes about 60 bytes and its values."""

    answer_bytes: int = Field(default=3_500_000, ge=1, le=4_000_000)
    """About how large one answer may be; messages end at 4 MiB."""

    batch_life_seconds: float = Field(default=30 * 86_400.0, ge=0, le=_CENTURY)
    """How long written batches are remembered: a batch that is sent again later is stored again, and the causes of differences
    between served and known values are told apart for so long. 0 for ever."""

    skew_life_seconds: float = Field(default=90 * 86_400.0, ge=0, le=_CENTURY)
    """How long it is kept what replays of served features found; 0 for ever."""

    registry_address: str = ""
    """Where the live model versions are known, which changes of definitions must not harm; empty means that there are
    none."""

    monitoring_address: str = ""
    """Where prediction records are, whose features are replayed; empty means that nothing is."""

    skew_share: float = Field(default=0.05, ge=0, le=1)
    """The share of the prediction records whose features are computed again and compared; 0 for none."""

    skew_seconds: float = Field(default=5.0, gt=0)
    """How often new prediction records are looked for. The replay takes a tenth of a core at most."""

    skew_settle_seconds: float = Field(default=5.0, ge=0)
    """How old records are before they are replayed: older than transactions live."""
