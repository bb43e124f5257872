"""What other modules of the repository import, as they would in Feast."""

from feast import Entity, FileSource, ValueType

print("a repository may say what it likes while it is imported")

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
merchant = Entity(name="Merchant", join_keys=["merchant_id"], value_type=ValueType.INT64)
place = Entity(name="place", join_keys=["place_id"], value_type=ValueType.INT32)
raw = Entity(name="raw", join_keys=["raw_id"], value_type=ValueType.BYTES)
nowhere = Entity(name="nowhere", join_keys=["nowhere_id"])

orders = FileSource(
    name="orders",
    path="data/orders.parquet",
    timestamp_field="ordered_at",
    created_timestamp_column="seen_at",
    field_mapping={"amt": "amount"},
)
