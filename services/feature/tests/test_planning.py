"""Plans of definitions over the wire, with a registry of the tests' own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import grpc.aio
import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2, definition_service_pb2_grpc
from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint.feature.v1 import feature_service_pb2 as feature_pb
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_columns import Columns, DataType
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_rpc import channel as channels
from setpoint_runtime import errors

APPROVED = model_pb2.APPROVAL_STATE_APPROVED
REFUSED = pb.CONSEQUENCE_SEVERITY_REFUSED
UNCHANGED, CREATE, METADATA, NEW_VERSION, RESTORE = (
    pb.CHANGE_ACTION_UNCHANGED,
    pb.CHANGE_ACTION_CREATE,
    pb.CHANGE_ACTION_METADATA,
    pb.CHANGE_ACTION_NEW_VERSION,
    pb.CHANGE_ACTION_RESTORE,
)
LATE = [("late", DataType.FLOAT64, 0.2)]


@dataclass
class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Models with versions and aliases, or none at all: it does not answer."""

    is_away: bool = False
    calls: int = 0
    versions: dict[str, list[model_pb2.ModelVersion]] = field(default_factory=dict)
    aliases: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Newest first."""

    def add(
        self, model: str, feature_set: definition_pb2.FeatureSet, state: int = APPROVED
    ) -> None:
        """Register the next version of a model."""
        known = self.versions.setdefault(model, [])
        reference = reference_pb2.FeatureSetReference(
            name=feature_set.name, version=feature_set.version
        )
        known.append(
            model_pb2.ModelVersion(
                model=model,
                version=len(known) + 1,
                approval_state=state,  # type: ignore[arg-type]  # one of the enum.
                manifest=model_pb2.Manifest(feature_set=reference),
            )
        )

    async def ListModels(self, request: Any, context: Any) -> Any:
        self.calls += 1
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        models = [model_pb2.Model(name=name) for name in self.versions]
        return registry_service_pb2.ListModelsResponse(models=models)

    async def ListAliasEvents(self, request: Any, context: Any) -> Any:
        events = [
            model_pb2.Alias(model=request.model, alias=alias, version=version)
            for alias, version in self.aliases.get(request.model, [])
        ]
        return registry_service_pb2.ListAliasEventsResponse(events=events)

    async def ListModelVersions(self, request: Any, context: Any) -> Any:
        # One for each page: all of them must be asked for.
        found = self.versions[request.model][::-1]
        at = int(request.page_token or 0)
        return registry_service_pb2.ListModelVersionsResponse(
            model_versions=found[at : at + 1],
            next_page_token=str(at + 1) if at + 1 < len(found) else "",
        )


@dataclass
class World:
    """A feature service, and the registry that it asks."""

    registry: Registry
    client: Client
    stub: Any

    async def plan(self, definitions: pb.Definitions) -> pb.PlanDefinitionsResponse:
        """Plan definitions."""
        found: pb.PlanDefinitionsResponse = await self.stub.PlanDefinitions(
            pb.PlanDefinitionsRequest(definitions=definitions)
        )
        return found

    async def apply(
        self, definitions: pb.Definitions, revision: int | None = None, **options: Any
    ) -> pb.ApplyDefinitionsResponse:
        """Apply definitions, as planned now unless told otherwise."""
        if revision is None:
            revision = (await self.plan(definitions)).revision
        request = pb.ApplyDefinitionsRequest(
            definitions=definitions,
            revision=revision,
            **{"request_id": testing.request_id(), "actor": "alice", **options},
        )
        found: pb.ApplyDefinitionsResponse = await self.stub.ApplyDefinitions(request)
        return found


@pytest.fixture
async def world(start: Start) -> AsyncIterator[World]:
    """The services, without definitions."""
    registry = Registry()  # type: ignore[abstract]  # what is asked of it.
    server = grpc.aio.server()
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        running = await stack.enter_async_context(start(registry_address=address))
        opened = await stack.enter_async_context(
            channels.connect(running.server.address, client="test")
        )
        stub = definition_service_pb2_grpc.DefinitionServiceStub(opened)
        yield World(registry, running.client, stub)


def files(fields: testing.Fields = LATE, **changes: Any) -> pb.Definitions:
    """Returns an entity, a view, another one, and a set of both."""
    return pb.Definitions(
        entities=[
            definition_pb2.Entity(
                name="carrier", keys=[testing.spec("carrier", DataType.STRING)], owner="ops"
            )
        ],
        views=[
            testing.view_message("delays", "carrier", fields, **changes),
            testing.view_message("sizes", "carrier", [("planes", DataType.INT64)]),
        ],
        feature_sets=[
            definition_pb2.FeatureSet(
                name="flights",
                features=[
                    testing.reference("delays", "late"),
                    testing.reference("sizes", "planes"),
                ],
            ),
            definition_pb2.FeatureSet(
                name="fleet", features=[testing.reference("sizes", "planes")]
            ),
        ],
    )


def actions(
    found: pb.PlanDefinitionsResponse | pb.ApplyDefinitionsResponse | pb.AppliedDefinitions,
) -> dict[str, int]:
    return {each.name: each.action for each in found.changes}


async def latest_set(world: World, name: str) -> definition_pb2.FeatureSet:
    reference = reference_pb2.FeatureSetReference(name=name)
    found = await world.client.stub.GetFeatureSet(
        feature_pb.GetFeatureSetRequest(feature_set=reference)
    )
    return found.feature_set


async def test_plan_says_what_apply_then_does(world: World) -> None:
    """A plan changes nothing; applied, everything is there, and planned again there is nothing to do."""
    planned = await world.plan(files())
    empty = await world.client.stub.ListFeatureViews(feature_pb.ListFeatureViewsRequest())
    applied = await world.apply(files(), planned.revision)
    again = await world.plan(files())

    assert set(actions(planned).values()) == {CREATE}
    assert list(actions(planned)) == ["carrier", "delays", "sizes", "flights", "fleet"]
    assert len(empty.views) == 0
    assert applied.changes == planned.changes
    assert (again.revision, applied.revision) == (planned.revision + 5,) * 2
    assert set(actions(again).values()) == {UNCHANGED}
    assert {each.field: each.after for each in planned.changes[1].differences} == {
        "entity": "carrier",
        "fields[late]": "dtype FLOAT64, default 0.2",
    }
    flights = await latest_set(world, "flights")
    assert flights.version == planned.changes[3].planned_version


async def test_plan_tells_new_versions_from_metadata(world: World) -> None:
    """What people read keeps the version; what changes values makes one, also of the sets bound to it."""
    await world.apply(files())
    noted = await world.plan(files(owner="ops", tags={"tier": "1"}))
    moved = await world.plan(files(ttl_microseconds=3_600_000_000))

    assert actions(noted) == {
        "carrier": UNCHANGED,
        "delays": METADATA,
        "sizes": UNCHANGED,
        "flights": UNCHANGED,
        "fleet": UNCHANGED,
    }
    (_, delays, *_) = noted.changes
    assert delays.current_version == delays.planned_version
    assert [(each.field, each.after) for each in delays.differences] == [
        ("owner", "ops"),
        ("tags[tier]", "1"),
    ]
    assert not any(each.makes_version for each in delays.differences)
    assert actions(moved) | {"carrier": 0} == {
        "carrier": 0,
        "delays": NEW_VERSION,
        "sizes": UNCHANGED,
        "flights": NEW_VERSION,
        "fleet": UNCHANGED,
    }
    (ttl,) = moved.changes[1].differences
    assert (ttl.field, ttl.before, ttl.after, ttl.makes_version) == ("ttl", "for ever", "1 h", True)
    (bound,) = moved.changes[3].differences
    assert bound.field == "features[late].view_version"
    assert bound.after == moved.changes[1].planned_version


async def test_apply_an_earlier_version_again_restores_it(world: World) -> None:
    """Going back is told as such, and the earlier version with its rows is the latest again."""
    await world.apply(files())
    await world.apply(files(ttl_microseconds=5))
    back = await world.apply(files())

    assert (actions(back)["delays"], actions(back)["flights"]) == (RESTORE, RESTORE)


async def test_wrong_definitions_are_all_named_by_their_place(world: World) -> None:
    """Every mistake is told at once, each at the place of its definition, and nothing is applied."""
    wanted = files()
    wanted.views[1].name = "delays"
    wanted.views.append(testing.view_message("ages", "nobody", LATE))
    wanted.views.append(testing.view_message("twice", "carrier", LATE * 2))
    wanted.views.append(testing.view_message("past", "carrier", LATE, ttl_microseconds=-1))
    wanted.feature_sets[1].features[0].view = "ages"

    planned = await testing.error_of(world.plan(wanted))
    applied = await testing.error_of(world.apply(wanted, 0))

    for error in (planned, applied):
        assert isinstance(error, errors.InvalidArgumentError)
        assert [each.field for each in error.violations] == [
            "definitions.views[1].name",
            "definitions.views[2].entity",
            "definitions.views[3].fields",
            "definitions.views[4].ttl_microseconds",
            "definitions.feature_sets[0].features[1].view",
        ]
        assert "views[0] has the name too" in error.violations[0].description
    nothing = await world.client.stub.ListEntities(feature_pb.ListEntitiesRequest())
    assert len(nothing.entities) == 0


async def test_wrong_type_is_named_by_its_place(world: World) -> None:
    """What cannot even be read is named by the place of its definition, too."""
    wanted = files()
    wanted.views[1].fields[0].ClearField("dtype")

    error = await testing.error_of(world.plan(wanted))

    assert error.violations[0].field == "definitions.views[1].fields[0].dtype"


async def test_other_keys_are_refused(world: World) -> None:
    """The keys of an entity never change, not by a plan either."""
    await world.apply(files())
    wanted = files()
    wanted.entities[0].keys[0].name = "code"

    error = await testing.error_of(world.plan(wanted))

    assert isinstance(error, errors.AlreadyExistsError)
    assert error.reason is errors.Reason.NAME_TAKEN
    assert error.violations[0].field == "definitions.entities[0].keys"


async def test_outdated_plan_is_refused(world: World) -> None:
    """What was planned before somebody else changed definitions is planned again first."""
    planned = await world.plan(files())
    await world.client.entity("other", id=DataType.INT64)

    error = await testing.error_of(world.apply(files(), planned.revision))

    assert isinstance(error, errors.AbortedError)
    assert error.reason is errors.Reason.ETAG_MISMATCH
    assert (await world.client.stub.ListEntities(feature_pb.ListEntitiesRequest())).entities[
        0
    ].name == "other"


async def test_apply_is_idempotent(world: World) -> None:
    """The same call again is a replay with the same answer, whatever happened since; with other content refused."""
    request_id = testing.request_id()
    planned = await world.plan(files())
    first = await world.apply(files(), planned.revision, request_id=request_id)
    await world.apply(files(ttl_microseconds=7))
    second = await world.apply(files(), planned.revision, request_id=request_id)
    error = await testing.error_of(
        world.apply(files(ttl_microseconds=9), planned.revision, request_id=request_id)
    )

    assert (first.replayed, second.replayed) == (False, True)
    assert second.changes == first.changes
    assert second.revision == first.revision
    assert error.reason is errors.Reason.REQUEST_ID_REUSED


async def test_breaking_change_is_refused_with_the_models(world: World) -> None:
    """A view that live models read gets no other version; they are named, in plan and refusal."""
    await world.apply(files())
    flights = await latest_set(world, "flights")
    fleet = await latest_set(world, "fleet")
    for model in ("late", "early"):
        world.registry.add(model, flights)
    world.registry.add("other", fleet)
    wanted = files([("late", DataType.FLOAT32)])

    planned = await world.plan(wanted)
    error = await testing.error_of(world.apply(wanted))
    single = await testing.error_of(
        world.client.view("delays", "carrier", [("late", DataType.FLOAT32)])
    )
    await world.apply(files(owner="somebody"))
    await world.client.write("delays", delays())

    (refused,) = [each for each in planned.changes[1].consequences if each.severity == REFUSED]
    assert [(each.model, each.version) for each in refused.models] == [("late", 1), ("early", 1)]
    assert [each.version for each in refused.feature_sets] == [flights.version]
    assert actions(planned)["delays"] == NEW_VERSION
    assert [each.field for each in planned.changes[1].differences] == [
        "fields[late].dtype",
        "fields[late].default",
    ]
    for each in (error, single):
        assert isinstance(each, errors.FailedPreconditionError)
        assert each.reason is errors.Reason.IN_USE
        assert each.metadata["models"] == "early/1, late/1"
        assert "late/1, early/1" in each.message
    values = await world.client.online("flights", keys(), version=flights.version)
    assert values.values["late"] == [0.5]


def delays() -> Columns:
    table: testing.Table = {
        "carrier": (DataType.STRING, ["UA"]),
        "event_time": (DataType.TIMESTAMP, [NOW - 1]),
        "created_time": (DataType.TIMESTAMP, [NOW - 1]),
        "late": (DataType.FLOAT64, [0.5]),
    }
    return Columns.from_dict(table)


def keys() -> Columns:
    return Columns.from_dict({"carrier": (DataType.STRING, ["UA"])})


async def test_retired_versions_have_no_say(world: World) -> None:
    """What no alias points at any more, and what is not approved, harms nobody; its candidate would."""
    await world.apply(files())
    flights = await latest_set(world, "flights")
    for state in (APPROVED, APPROVED, model_pb2.APPROVAL_STATE_PENDING, APPROVED):
        world.registry.add("late", flights, state)
    world.registry.aliases["late"] = [("champion", 2), ("champion", 1)]

    planned = await world.plan(files(ttl_microseconds=5))

    (refused,) = [each for each in planned.changes[1].consequences if each.severity == REFUSED]
    assert [each.version for each in refused.models] == [4, 2]


async def test_sets_that_stay_behind_are_told(world: World) -> None:
    """A set that is not applied along stays with the version that gets no more rows, which is a warning."""
    await world.apply(files())
    only = files(ttl_microseconds=5)
    del only.feature_sets[:]

    planned = await world.plan(only)

    warnings = [
        each
        for each in planned.changes[1].consequences
        if each.severity == pb.CONSEQUENCE_SEVERITY_WARNING
    ]
    assert [[found.name for found in each.feature_sets] for each in warnings] == [["flights"]]


async def test_rows_that_will_go_are_told(world: World) -> None:
    """Only what applying cannot take back, a shorter retention, is warned of; it makes no version."""
    day = 86_400_000_000
    warned = []
    for retention in (2 * day, 3 * day, day, 0):
        wanted = files(retention_microseconds=retention)
        planned = await world.plan(wanted)
        warned.append([each.message for each in planned.changes[1].consequences])
        await world.apply(wanted)

    told = "rows that nobody has been able to see for {} are removed from the history for good"
    assert warned == [[], [], [told.format("1 d")], []]
    planned = await world.plan(files(retention_microseconds=day))
    assert actions(planned)["delays"] == METADATA
    (consequence,) = planned.changes[1].consequences
    assert consequence.severity == pb.CONSEQUENCE_SEVERITY_WARNING
    assert [each.makes_version for each in planned.changes[1].differences] == [False]


async def test_force_needs_a_reason_and_is_recorded(world: World) -> None:
    """Who overrides a refusal says why, and both can be read later; what nobody overrode is not marked."""
    await world.apply(files(), reason="the beginning")
    world.registry.add("late", await latest_set(world, "flights"))
    wanted = files(ttl_microseconds=5)
    error = await testing.error_of(world.apply(wanted, force=True))
    forced = await world.apply(wanted, force=True, reason="the model goes tonight")
    first = await world.stub.ListAppliedDefinitions(pb.ListAppliedDefinitionsRequest(page_size=1))
    rest = await world.stub.ListAppliedDefinitions(
        pb.ListAppliedDefinitionsRequest(page_size=1, page_token=first.next_page_token)
    )

    assert error.violations[0].field == "reason"
    (record,) = first.applied
    assert (record.actor, record.reason, record.forced) == ("alice", "the model goes tonight", True)
    assert (record.apply_time, record.revision) == (NOW, forced.revision)
    assert actions(record) == {"delays": NEW_VERSION, "flights": NEW_VERSION}
    assert any(each.severity == REFUSED for each in record.changes[0].consequences)
    assert [(each.reason, each.forced) for each in rest.applied] == [("the beginning", False)]
    assert rest.next_page_token == ""


async def test_without_the_registry_only_what_harms_nobody_is_applied(world: World) -> None:
    """Where nobody says which models live, a used view keeps its version unless forced; the rest goes on."""
    await world.apply(files())
    world.registry.is_away = True
    wanted = files(ttl_microseconds=5)
    planned = await world.plan(wanted)
    error = await testing.error_of(world.apply(wanted))
    single = await testing.error_of(
        world.client.view("delays", "carrier", LATE, ttl_microseconds=5)
    )
    asked = world.registry.calls
    await world.apply(files(owner="ops"))
    await world.client.view("alone", "carrier", LATE)
    await world.client.view("alone", "carrier", LATE, ttl_microseconds=5)
    forced = await world.apply(wanted, force=True, reason="the registry is gone")

    severities = {each.severity for each in planned.changes[1].consequences}
    assert pb.CONSEQUENCE_SEVERITY_UNKNOWN in severities
    for each in (error, single):
        assert isinstance(each, errors.UnavailableError)
        assert each.reason is errors.Reason.UNAVAILABLE
    assert world.registry.calls == asked + 2
    assert actions(forced)["delays"] == NEW_VERSION


async def test_apply_keeps_two_at_the_same_time_apart(world: World) -> None:
    """Of two plans of one state one is applied, the other has to be made again."""
    planned = await world.plan(files())
    calls = [world.apply(files(ttl_microseconds=at), planned.revision) for at in (1, 2)]
    first, second = [await _outcome(each) for each in calls]

    assert isinstance(first, pb.ApplyDefinitionsResponse)
    assert isinstance(second, errors.AbortedError)


async def test_a_revision_to_come_is_no_way_around_live_models(
    world: World, feature_url: str
) -> None:
    """Who names the next revision, and meets it, is not spared the question who would be harmed."""
    await world.apply(files())
    world.registry.add("late", await latest_set(world, "flights"))
    wanted = files([("late", DataType.FLOAT32)])
    revision = (await world.plan(wanted)).revision
    connection = await asyncpg.connect(feature_url)
    try:
        held = "pg_advisory{}lock(hashtextextended('setpoint.feature.registration', 0))"
        await connection.execute(f"SELECT {held.format('_')}")
        one_more = asyncio.ensure_future(world.client.entity("other", other=DataType.STRING))
        await _wait_for(connection, 1)
        guess = asyncio.ensure_future(_outcome(world.apply(wanted, revision + 1)))
        await _wait_for(connection, 2)
        await connection.execute(f"SELECT {held.format('_un')}")
        await one_more
        error = await guess
    finally:
        await connection.close()

    assert isinstance(error, errors.AbortedError)
    assert error.reason is errors.Reason.ETAG_MISMATCH
    assert (await world.plan(files())).revision == revision + 1


async def _wait_for(connection: "asyncpg.Connection[Any]", waiting: int) -> None:
    """Waits until so many wait for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(10):
        while await connection.fetchval(query) < waiting:
            await asyncio.sleep(0.005)


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return channels.from_rpc_error(error)
