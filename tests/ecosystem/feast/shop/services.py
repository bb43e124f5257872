"""On-demand views and services."""

import numpy as np
import pandas as pd
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from views import pairs, spending, weather, world

asked = RequestSource(name="asked", schema=[Field(name="limit", dtype=Float64)])


@on_demand_feature_view(
    sources=[spending, asked],
    schema=[Field(name="left", dtype=Float64), Field(name="log_amount", dtype=Float64)],
)
def headroom(inputs: pd.DataFrame) -> pd.DataFrame:
    """Say what is left."""
    df = pd.DataFrame()
    df["left"] = inputs["limit"] - inputs["amount"]
    df["log_amount"] = np.log1p(inputs["amount"].abs())
    return df


@on_demand_feature_view(
    sources=[spending], schema=[Field(name="mean", dtype=Float64)], mode="python"
)
def by_rows(inputs: dict) -> dict:
    """Loop over rows, as plain Python does."""
    return {"mean": [a / o for a, o in zip(inputs["amount"], inputs["orders"], strict=True)]}


@on_demand_feature_view(
    sources=[spending], schema=[Field(name="twice", dtype=Int64)], mode="python", singleton=True
)
def one_row(inputs: dict) -> dict:
    """Take one row at a time."""
    return {"twice": inputs["orders"] * 2}


@on_demand_feature_view(sources=[spending], schema=[Field(name="filled", dtype=Float64)])
def filled(inputs: pd.DataFrame) -> pd.DataFrame:
    """Do what arithmetic cannot say."""
    df = pd.DataFrame()
    df["filled"] = inputs["amount"].fillna(0.0)
    return df


decide = FeatureService(name="decide", features=[spending[["orders"]], headroom, by_rows, one_row])
route = FeatureService(
    name="route",
    features=[
        weather[["wind"]].with_name("origin").with_join_key_map({"place_id": "origin_id"}),
        weather[["wind"]]
        .with_name("destination")
        .with_join_key_map({"place_id": "destination_id"}),
        world,
    ],
    owner="route@example.org",
)
mixed = FeatureService(name="Mixed Up", features=[pairs, filled])
by_text = FeatureService(
    name="by_text", features=["spending:amount", "spending@v3:orders", "daily"]
)
