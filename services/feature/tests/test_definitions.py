import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import DataType
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

LATE = [("late", DataType.FLOAT64, 0.2)]


async def test_register_twice_changes_nothing(client: Client) -> None:
    """The same definition under two request ids is one resource, and no replay."""
    first = await client.entity("carrier", carrier=DataType.STRING)
    second = await client.entity("carrier", carrier=DataType.STRING)

    assert first == second
    assert first.create_time == NOW


async def test_register_replay_is_told(client: Client) -> None:
    """The same request id with the same content is a replay; with other content it is refused."""
    entity = definition_pb2.Entity(name="carrier", keys=[testing.spec("carrier", DataType.STRING)])
    request = pb.RegisterEntityRequest(request_id=testing.request_id(), entity=entity)
    first = await client.stub.RegisterEntity(request)
    second = await client.stub.RegisterEntity(request)
    request.entity.description = "other"
    error = await testing.error_of(client.stub.RegisterEntity(request))

    assert (first.replayed, second.replayed) == (False, True)
    assert first.entity == second.entity
    assert isinstance(error, errors.AlreadyExistsError)
    assert error.reason is errors.Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize("bad", ["", "not a uuid"])
async def test_register_without_request_id_is_refused(client: Client, bad: str) -> None:
    """A registration that could not be repeated safely is refused."""
    entity = definition_pb2.Entity(name="carrier")

    error = await testing.error_of(
        client.stub.RegisterEntity(pb.RegisterEntityRequest(request_id=bad, entity=entity))
    )

    assert error.violations[0].field == "request_id"


async def test_register_other_keys_under_a_taken_name(client: Client) -> None:
    """An entity keeps its keys."""
    await client.entity("carrier", carrier=DataType.STRING)

    error = await testing.error_of(client.entity("carrier", code=DataType.STRING))

    assert error.reason is errors.Reason.NAME_TAKEN


async def test_view_versions(client: Client) -> None:
    """A changed view is a new version, both can be read, and going back makes the first the latest."""
    await client.entity("carrier", carrier=DataType.STRING)
    first = await client.view("delays", "carrier", LATE)
    second = await client.view("delays", "carrier", LATE, ttl_microseconds=9)
    pinned = await client.stub.GetFeatureView(
        pb.GetFeatureViewRequest(name="delays", version=first.version)
    )
    latest = await client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="delays"))
    back = await client.view("delays", "carrier", LATE)
    again = await client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="delays"))

    assert first.version != second.version
    assert pinned.view == first == back == again.view
    assert latest.view == second


async def test_view_round_trip(client: Client) -> None:
    """Everything that a view declares comes back as it was sent."""
    await client.entity("carrier", carrier=DataType.STRING)
    fields = [
        ("flag", DataType.BOOL, True),
        ("small", DataType.INT32, -5),
        ("big", DataType.INT64, -(1 << 63)),
        ("ratio", DataType.FLOAT32, 0.5),
        ("share", DataType.FLOAT64, 1e300),
        ("text", DataType.STRING, "nul \0 and é"),
        ("plain", DataType.STRING),
    ]
    wanted = testing.view_message(
        "delays",
        "carrier",
        fields,
        ttl_microseconds=(1 << 63) - 1,
        boundary=definition_pb2.BOUNDARY_EXCLUSIVE,
        description="d",
        owner="o",
    )
    wanted.fields[0].sensitive = True
    wanted.fields.add(name="when", dtype=7).default_value.timestamp_value = 5

    await client.stub.RegisterFeatureView(
        pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=wanted)
    )
    found = (await client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="delays"))).view

    assert found.create_time == NOW
    found.ClearField("version")
    found.ClearField("create_time")
    assert found == wanted


async def test_view_null_default_is_refused(client: Client) -> None:
    """An explicit null default says nothing that absence does not say."""
    await client.entity("carrier", carrier=DataType.STRING)

    error = await testing.error_of(
        client.view("delays", "carrier", [("late", DataType.FLOAT64, None)])
    )

    assert error.violations[0].field == "view.fields[0].default_value"


async def test_view_without_type_is_refused(client: Client) -> None:
    """An unspecified type is no type."""
    message = definition_pb2.FeatureView(name="delays", entity="carrier")
    message.fields.add(name="late")

    error = await testing.error_of(
        client.stub.RegisterFeatureView(
            pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=message)
        )
    )

    assert error.violations[0].field == "view.fields[0].dtype"


async def test_feature_set_is_bound_to_view_versions(client: Client) -> None:
    """A set keeps the versions it was registered with; registering it again takes the new ones."""
    await client.entity("airport", airport=DataType.STRING)
    first_view = await client.view("weather", "airport", [("wind", DataType.FLOAT64)])
    features = [
        testing.reference("weather", "wind", "from_wind", airport="origin"),
        testing.reference("weather", "wind", "to_wind", airport="dest"),
    ]
    request_fields = [testing.spec("hour", DataType.INT32)]
    first = await client.feature_set("flights", features, request_fields=request_fields)
    second_view = await client.view("weather", "airport", [("wind", DataType.FLOAT32)])
    second = await client.feature_set("flights", features, request_fields=request_fields)

    asked = reference_pb2.FeatureSetReference(name="flights", version=first.version)
    found = await client.stub.GetFeatureSet(pb.GetFeatureSetRequest(feature_set=asked))
    assert found.feature_set == first
    assert [each.name for each in found.key_columns] == ["dest", "origin"]
    assert [each.view_version for each in first.features] == [first_view.version] * 2
    assert [each.view_version for each in second.features] == [second_view.version] * 2
    assert first.version != second.version


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            lambda stub: stub.GetEntity(pb.GetEntityRequest(name="x")),
            errors.Reason.ENTITY_NOT_FOUND,
        ),
        (
            lambda stub: stub.GetFeatureView(pb.GetFeatureViewRequest(name="x")),
            errors.Reason.FEATURE_VIEW_NOT_FOUND,
        ),
        (
            lambda stub: stub.GetFeatureSet(pb.GetFeatureSetRequest()),
            errors.Reason.FEATURE_SET_NOT_FOUND,
        ),
    ],
)
async def test_get_unknown_is_not_found(
    client: Client, call: object, reason: errors.Reason
) -> None:
    """Each kind has its own reason for what does not exist."""
    assert callable(call)
    error = await testing.error_of(call(client.stub))

    assert isinstance(error, errors.NotFoundError)
    assert error.reason is reason


async def test_list_pages(client: Client) -> None:
    """Pages go through all names in order; a token of another list is refused."""
    for name in ("c", "a", "b"):
        await client.entity(name, id=DataType.INT64)
    first = await client.stub.ListEntities(pb.ListEntitiesRequest(page_size=2))
    rest = await client.stub.ListEntities(
        pb.ListEntitiesRequest(page_size=2, page_token=first.next_page_token)
    )
    views = await client.stub.ListFeatureViews(pb.ListFeatureViewsRequest())
    sets = await client.stub.ListFeatureSets(pb.ListFeatureSetsRequest())

    assert [each.name for each in first.entities] == ["a", "b"]
    assert [each.name for each in rest.entities] == ["c"]
    assert rest.next_page_token == ""
    assert (len(views.views), len(sets.feature_sets)) == (0, 0)
    for token in (first.next_page_token, "nonsense", "é"):
        error = await testing.error_of(
            client.stub.ListFeatureViews(pb.ListFeatureViewsRequest(page_token=token))
        )
        assert error.reason is errors.Reason.INVALID_PAGE_TOKEN


async def test_replicas_see_each_others_definitions(start: Start) -> None:
    """What one replica registers, another finds at the first question for it."""
    async with start(poll_seconds=60) as one, start(poll_seconds=60) as other:
        await one.client.entity("carrier", carrier=DataType.STRING)

        found = await other.client.stub.GetEntity(pb.GetEntityRequest(name="carrier"))

        assert found.entity.name == "carrier"
