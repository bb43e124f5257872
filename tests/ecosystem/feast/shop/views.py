"""Views of every kind, and what is odd about each."""

from datetime import timedelta

import pandas as pd
from common import customer, merchant, nowhere, orders, place, raw
from feast import (
    Aggregation,
    BatchFeatureView,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    LabelView,
    Project,
    PushSource,
    StreamFeatureView,
)
from feast.data_format import AvroFormat
from feast.permissions.action import AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

project = Project(name="shop", description="Odd things")

spending = FeatureView(
    name="spending",
    entities=[customer],
    schema=[
        Field(name="amount", dtype=Float64, description="Spent", tags={"unit": "EUR"}),
        Field(name="orders", dtype=Int64),
        Field(name="customer_id", dtype=String),
    ],
    source=orders,
    owner="shop@example.org",
    description="What a customer spent",
    tags={"team": "shop", "not a tag": "x"},
)

pairs = FeatureView(
    name="pairs",
    entities=[merchant, customer],
    ttl=timedelta(milliseconds=1500),
    schema=[
        Field(name="trusted", dtype=Bool),
        Field(name="visits", dtype=Int32),
        Field(name="last_visit", dtype=UnixTimestamp),
        Field(name="taste", dtype=Array(Float32), vector_index=True, vector_length=4),
        Field(name="picture", dtype=Bytes),
    ],
    source=PushSource(name="visits", batch_source=orders),
)

weather = FeatureView(
    name="weather",
    entities=[place],
    ttl=timedelta(hours=1),
    schema=[Field(name="wind", dtype=Float32), Field(name="event_time", dtype=Float32)],
    source=KafkaSource(
        name="weather_stream",
        kafka_bootstrap_servers="localhost:9092",
        topic="weather",
        timestamp_field="at",
        message_format=AvroFormat(""),
        batch_source=FileSource(name="weather", path="data/weather.parquet", timestamp_field="at"),
    ),
)

world = FeatureView(name="World Wide", schema=[Field(name="load", dtype=Float32)], source=orders)

of_bytes = FeatureView(
    name="of_bytes", entities=[raw], schema=[Field(name="a", dtype=Int64)], source=orders
)

of_nobody = FeatureView(
    name="of_nobody",
    entities=[nowhere],
    schema=[Field(name="a", dtype=Int64)],
    source=FileSource(name="absent", path="data/absent.parquet", timestamp_field="at"),
)

unsaid = FeatureView(
    name="unsaid",
    entities=[customer],
    source=FileSource(name="unsaid", path="data/unsaid.parquet", timestamp_field="at"),
)


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    """A transformation of rows before they are stored."""
    return frame * 2


daily = BatchFeatureView(
    name="daily",
    entities=[customer],
    mode="pandas",
    udf=doubled,
    udf_string="doubled",
    schema=[Field(name="total", dtype=Float64)],
    source=orders,
    online=False,
)

hourly = StreamFeatureView(
    name="hourly",
    entities=[customer],
    schema=[Field(name="sum_amount_3600s", dtype=Float64)],
    source=PushSource(name="payments", batch_source=orders),
    aggregations=[Aggregation(column="amount", function="sum", time_window=timedelta(hours=1))],
    timestamp_field="ordered_at",
)

labels = LabelView(
    name="labels",
    entities=[customer],
    schema=[Field(name="fraud", dtype=Int64), Field(name="labeler", dtype=String)],
    source=PushSource(name="labels", batch_source=orders),
)

readers = Permission(
    name="readers",
    types=[FeatureView],
    policy=RoleBasedPolicy(roles=["reader"]),
    actions=[AuthzedAction.DESCRIBE],
)
