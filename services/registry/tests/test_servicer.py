import asyncio
import hashlib

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.registry.v1 import model_pb2
from setpoint.registry.v1 import registry_service_pb2 as pb
from setpoint_artifacts import testing as artifact_testing
from setpoint_registry import testing
from setpoint_registry.testing import Registry
from setpoint_rpc import channel
from setpoint_runtime import errors

APPROVED = model_pb2.APPROVAL_STATE_APPROVED
REJECTED = model_pb2.APPROVAL_STATE_REJECTED
PENDING = model_pb2.APPROVAL_STATE_PENDING


async def failing(call: object) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Await a call that fails; return its code and typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # stubs of grpc.aio calls are not awaitable to mypy
    return caught.value.code(), channel.from_rpc_error(caught.value)


def alias_request(version: int, valid_from: int = 0, alias: str = "champion") -> pb.SetAliasRequest:
    return pb.SetAliasRequest(
        request_id=testing.request_id(),
        model="late",
        alias=alias,
        version=version,
        valid_from=valid_from,
        actor="alice",
        reason="better",
    )


async def pointed_at(registry: Registry, time: int = 0) -> int:
    request = pb.GetAliasRequest(model="late", alias="champion", time=time)
    return (await registry.stub.GetAlias(request)).alias.version


# Models


async def test_create_model_returns_stored(registry: Registry) -> None:
    """A model is stored as given, with the service's time."""
    request = pb.CreateModelRequest(request_id=testing.request_id(), model=testing.model())
    made = await registry.stub.CreateModel(request)
    found = (await registry.stub.GetModel(pb.GetModelRequest(name="late"))).model
    assert made.model == found
    assert found.create_time == registry.clock.now_us()
    assert (found.task, found.description) == (model_pb2.TASK_REGRESSION, "How late?")


async def test_create_model_replay(registry: Registry) -> None:
    """The same request again changes nothing; its id with another content is refused."""
    request = pb.CreateModelRequest(request_id=testing.request_id(), model=testing.model())
    first = await registry.stub.CreateModel(request)
    again = await registry.stub.CreateModel(request)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.model == again.model
    request.model.description = "other"
    code, error = await failing(registry.stub.CreateModel(request))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert error.reason == errors.Reason.REQUEST_ID_REUSED


async def test_create_model_name_taken(registry: Registry) -> None:
    """A name is given once."""
    await registry.with_model()
    request = pb.CreateModelRequest(request_id=testing.request_id(), model=testing.model())
    code, error = await failing(registry.stub.CreateModel(request))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert error.reason == errors.Reason.NAME_TAKEN


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"name": ""}, "model.name", errors.Reason.INVALID_FIELD),
        ({"name": "Über"}, "model.name", errors.Reason.INVALID_FIELD),
        ({"name": "a/../b"}, "model.name", errors.Reason.INVALID_FIELD),
        ({"task": 0}, "model.task", errors.Reason.INVALID_FIELD),
        ({"task": 77}, "model.task", errors.Reason.INVALID_FIELD),
        ({"description": "x" * 5000}, "model.description", errors.Reason.TOO_LARGE),
        ({"owner": "a\0b"}, "model.owner", errors.Reason.INVALID_FIELD),
    ],
)
async def test_create_model_invalid(
    registry: Registry, change: dict[str, object], field: str, reason: errors.Reason
) -> None:
    """A wrong field is named."""
    model = testing.model()
    for name, value in change.items():
        setattr(model, name, value)
    request = pb.CreateModelRequest(request_id=testing.request_id(), model=model)
    code, error = await failing(registry.stub.CreateModel(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == reason
    assert error.violations[0].field == field


@pytest.mark.parametrize("request_id", ["", "not-a-uuid"])
async def test_create_model_request_id(registry: Registry, request_id: str) -> None:
    """A mutating call needs a request id."""
    request = pb.CreateModelRequest(request_id=request_id, model=testing.model())
    _, error = await failing(registry.stub.CreateModel(request))
    assert error.violations[0].field == "request_id"


async def test_get_model_unknown(registry: Registry) -> None:
    """A model that does not exist is not found, by every method that names one."""
    calls = [
        registry.stub.GetModel(pb.GetModelRequest(name="none")),
        registry.stub.ListModelVersions(pb.ListModelVersionsRequest(model="none")),
        registry.stub.ListAliasEvents(pb.ListAliasEventsRequest(model="none")),
        registry.stub.ListApprovals(pb.ListApprovalsRequest(model="none")),
        registry.stub.GetModelVersion(
            pb.GetModelVersionRequest(
                model_version=reference_pb2.ModelVersionReference(model="none", version=1)
            )
        ),
    ]
    for call in calls:
        code, error = await failing(call)
        assert code == grpc.StatusCode.NOT_FOUND
        assert error.reason == errors.Reason.MODEL_NOT_FOUND


async def test_list_models_pages(registry: Registry) -> None:
    """Pages hold every model once, by name."""
    names = [f"m{index}" for index in range(5)] + ["a-b", "a_b"]
    for name in names:
        request = pb.CreateModelRequest(request_id=testing.request_id(), model=testing.model(name))
        await registry.stub.CreateModel(request)
    found, token, pages = [], "", 0
    while pages == 0 or token:
        answer = await registry.stub.ListModels(pb.ListModelsRequest(page_size=3, page_token=token))
        found += [model.name for model in answer.models]
        token, pages = answer.next_page_token, pages + 1
    assert found == sorted(names)
    assert pages == 3


async def test_list_models_foreign_token(registry: Registry) -> None:
    """A token of another list is refused."""
    _, error = await failing(registry.stub.ListModels(pb.ListModelsRequest(page_token="x")))
    assert error.reason == errors.Reason.INVALID_PAGE_TOKEN


# Versions


async def test_create_version_stores_manifest(registry: Registry) -> None:
    """The manifest comes back as given, with the size, and the digest is of its bytes."""
    await registry.with_model()
    version = await registry.with_version()
    wanted = testing.manifest()
    wanted.artifact_size = len(testing.ONNX)
    assert version.manifest == wanted
    assert (version.version, version.approval_state) == (1, PENDING)
    digest = hashlib.sha256(wanted.SerializeToString(deterministic=True)).hexdigest()
    assert version.manifest_digest == digest
    reference = reference_pb2.ModelVersionReference(model="late", version=1)
    request = pb.GetModelVersionRequest(model_version=reference)
    assert (await registry.stub.GetModelVersion(request)).model_version == version


async def test_create_version_numbers_without_gaps(registry: Registry) -> None:
    """Versions made at the same time, some of them refused, are numbered without gaps."""
    await registry.with_model()
    bad = testing.manifest()
    bad.parents.add(model="late", version=99)
    results = await asyncio.gather(
        *(registry.with_version("late", bad if index % 3 == 0 else None) for index in range(15)),
        return_exceptions=True,
    )
    numbers = [each.version for each in results if isinstance(each, model_pb2.ModelVersion)]
    assert sorted(numbers) == list(range(1, 11))


async def test_create_version_replay(registry: Registry) -> None:
    """The same request again returns the same version."""
    await registry.with_model()
    request = pb.CreateModelVersionRequest(
        request_id=testing.request_id(), model="late", manifest=testing.manifest()
    )
    first = await registry.stub.CreateModelVersion(request)
    await registry.decide(first.model_version)
    again = await registry.stub.CreateModelVersion(request)
    assert again.replayed
    assert again.model_version.version == 1
    listed = await registry.stub.ListModelVersions(pb.ListModelVersionsRequest(model="late"))
    assert len(listed.model_versions) == 1


async def test_create_version_without_artifact(registry: Registry) -> None:
    """The artifact has to be stored before."""
    await registry.with_model()
    manifest = testing.manifest()
    manifest.artifact_digest = "0" * 64
    request = pb.CreateModelVersionRequest(
        request_id=testing.request_id(), model="late", manifest=manifest
    )
    code, error = await failing(registry.stub.CreateModelVersion(request))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason == errors.Reason.ARTIFACT_NOT_FOUND


async def test_create_version_artifact_lost(registry: Registry) -> None:
    """An artifact whose bytes are gone cannot become a version."""
    await registry.with_model()
    registry.stored_files()[0].unlink()
    code, _ = await failing(registry.with_version())
    assert code == grpc.StatusCode.FAILED_PRECONDITION


async def test_create_version_unknown_model(registry: Registry) -> None:
    """A version needs its model."""
    await registry.with_model()
    code, error = await failing(registry.with_version("other"))
    assert code == grpc.StatusCode.NOT_FOUND
    assert error.reason == errors.Reason.MODEL_NOT_FOUND


def rename_input(manifest: model_pb2.Manifest) -> None:
    manifest.inputs[0].name = "Z"


def widen_input(manifest: model_pb2.Manifest) -> None:
    manifest.inputs[0].columns.append("c")


def retype_input(manifest: model_pb2.Manifest) -> None:
    manifest.inputs[0].dtype = column_pb2.DATA_TYPE_FLOAT64


def rename_output(manifest: model_pb2.Manifest) -> None:
    manifest.outputs[0].name = "Z"


@pytest.mark.parametrize("change", [rename_input, widen_input, retype_input, rename_output])
async def test_create_version_other_signature(registry: Registry, change: object) -> None:
    """Inputs and outputs other than the graph's are refused, naming the tensor."""
    await registry.with_model()
    manifest = testing.manifest()
    change(manifest)  # type: ignore[operator]  # one of the functions above
    code, error = await failing(registry.with_version("late", manifest))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason == errors.Reason.SIGNATURE_MISMATCH
    tensor = "'X'" if change in (widen_input, retype_input) else "'Z'"
    assert tensor in error.message


async def test_create_version_parents(registry: Registry) -> None:
    """Parents have to be registered versions."""
    await registry.with_model()
    await registry.with_version()
    manifest = testing.manifest()
    manifest.parents.add(model="late", version=1)
    assert (await registry.with_version("late", manifest)).manifest.parents[0].version == 1
    manifest.parents.add(model="late", version=7)
    code, error = await failing(registry.with_version("late", manifest))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0].field == "manifest.parents[1]"


async def test_create_version_sklearn(registry: Registry) -> None:
    """A converted scikit-learn classifier with two outputs becomes a version."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    values = np.random.default_rng(0).normal(size=(100, 2))
    estimator = LogisticRegression().fit(values, values[:, 0] > 0)
    data = artifact_testing.from_sklearn(estimator, [("X*2", "float")])
    await registry.with_model("late", data)
    manifest = testing.manifest(data)
    del manifest.outputs[:]
    manifest.outputs.add(
        name="probabilities", dtype=column_pb2.DATA_TYPE_FLOAT32, columns=["no", "yes"]
    )
    manifest.score_column = "yes"
    assert (await registry.with_version("late", manifest)).version == 1


async def test_list_versions_newest_first(registry: Registry) -> None:
    """Pages hold every version once, newest first, each with its state."""
    await registry.with_model()
    for _ in range(5):
        await registry.with_version()
    found: list[int] = []
    token = ""
    while not found or token:
        answer = await registry.stub.ListModelVersions(
            pb.ListModelVersionsRequest(model="late", page_size=2, page_token=token)
        )
        found += [version.version for version in answer.model_versions]
        token = answer.next_page_token
    assert found == [5, 4, 3, 2, 1]


async def test_list_versions_large_manifests(registry: Registry) -> None:
    """A page of large manifests ends before the limit of a message, not in an error."""
    await registry.with_model()
    manifest = testing.manifest()
    manifest.environment["packages"] = "x" * 900_000
    for _ in range(5):
        await registry.with_version("late", manifest)
    found, token, pages = 0, "", 0
    while pages == 0 or token:
        answer = await registry.stub.ListModelVersions(
            pb.ListModelVersionsRequest(model="late", page_token=token)
        )
        found += len(answer.model_versions)
        token, pages = answer.next_page_token, pages + 1
    assert found == 5
    assert pages == 2


# Approvals


async def test_decide_approves(registry: Registry) -> None:
    """An approval is stored with its time and shows in the version."""
    await registry.with_model()
    version = await registry.with_version()
    registry.clock.advance(1_000_000)
    answer = await registry.decide(version)
    assert answer.approval.decision == APPROVED
    assert answer.approval.decide_time == registry.clock.now_us()
    assert answer.approval.manifest_digest == version.manifest_digest
    request = pb.GetModelVersionRequest(model_version=answer.approval.model_version)
    found = (await registry.stub.GetModelVersion(request)).model_version
    assert found.approval_state == APPROVED
    listed = await registry.stub.ListApprovals(pb.ListApprovalsRequest(model="late"))
    assert list(listed.approvals) == [answer.approval]


async def test_decide_other_manifest(registry: Registry) -> None:
    """A decision about another manifest than the version's is refused."""
    await registry.with_model()
    version = await registry.with_version()
    code, error = await failing(registry.decide(version, digest="0" * 64))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason == errors.Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("first", [APPROVED, REJECTED])
async def test_decide_twice(registry: Registry, first: model_pb2.ApprovalState.ValueType) -> None:
    """A decision is terminal, whichever it was."""
    await registry.with_model()
    version = await registry.with_version()
    await registry.decide(version, first)
    for second in (APPROVED, REJECTED):
        code, error = await failing(registry.decide(version, second))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert error.reason == errors.Reason.ALREADY_DECIDED


async def test_decide_replay(registry: Registry) -> None:
    """The same decision with the same request id is a replay."""
    await registry.with_model()
    version = await registry.with_version()
    request_id = testing.request_id()
    first = await registry.decide(version, request_id=request_id)
    again = await registry.decide(version, request_id=request_id)
    assert again.replayed
    assert again.approval == first.approval


async def test_decide_concurrently(registry: Registry) -> None:
    """Of many decisions at once exactly one stands."""
    await registry.with_model()
    version = await registry.with_version()
    results = await asyncio.gather(
        *(registry.decide(version, APPROVED if i % 2 else REJECTED) for i in range(8)),
        return_exceptions=True,
    )
    assert sum(not isinstance(each, BaseException) for each in results) == 1
    listed = await registry.stub.ListApprovals(pb.ListApprovalsRequest(model="late"))
    assert len(listed.approvals) == 1


@pytest.mark.parametrize("decision", [0, PENDING, 9])
async def test_decide_nothing(registry: Registry, decision: int) -> None:
    """Only APPROVED and REJECTED are decisions."""
    await registry.with_model()
    version = await registry.with_version()
    code, error = await failing(registry.decide(version, decision))  # type: ignore[arg-type]  # on purpose
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0].field == "decision"


async def test_decide_unknown_version(registry: Registry) -> None:
    """A version that does not exist cannot be decided about."""
    await registry.with_model()
    version = await registry.with_version()
    version.version = 5
    code, error = await failing(registry.decide(version))
    assert code == grpc.StatusCode.NOT_FOUND
    assert error.reason == errors.Reason.MODEL_VERSION_NOT_FOUND


# Aliases


async def test_set_alias_history(registry: Registry) -> None:
    """An alias has a history: what it meant at any time can be asked."""
    await registry.with_model()
    for _ in range(3):
        await registry.with_version()
    for version, time in ((1, 1000), (2, 2000), (3, 2000), (1, 3000)):
        await registry.stub.SetAlias(alias_request(version, time))
    assert await pointed_at(registry) == 1
    assert await pointed_at(registry, 1000) == 1
    assert await pointed_at(registry, 1999) == 1
    assert await pointed_at(registry, 2000) == 3
    assert await pointed_at(registry, 2999) == 3
    assert await pointed_at(registry, 9000) == 1
    code, error = await failing(
        registry.stub.GetAlias(pb.GetAliasRequest(model="late", alias="champion", time=999))
    )
    assert code == grpc.StatusCode.NOT_FOUND
    assert error.reason == errors.Reason.ALIAS_NOT_FOUND


async def test_set_alias_now(registry: Registry) -> None:
    """Without a time an alias moves at the service's time."""
    await registry.with_model()
    await registry.with_version()
    moved = (await registry.stub.SetAlias(alias_request(1))).alias
    assert moved.valid_from == registry.clock.now_us()


async def test_set_alias_back_in_time(registry: Registry) -> None:
    """The times of an alias never go back; another alias has its own times."""
    await registry.with_model()
    await registry.with_version()
    await registry.stub.SetAlias(alias_request(1, 2000))
    code, error = await failing(registry.stub.SetAlias(alias_request(1, 1999)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0].field == "valid_from"
    await registry.stub.SetAlias(alias_request(1, 1000, "challenger"))


async def test_set_alias_rejected_version(registry: Registry) -> None:
    """No alias may mean a rejected version."""
    await registry.with_model()
    await registry.decide(await registry.with_version(), REJECTED)
    code, error = await failing(registry.stub.SetAlias(alias_request(1)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason == errors.Reason.NOT_APPROVED


async def test_set_alias_unknown_version(registry: Registry) -> None:
    """An alias needs an existing version."""
    await registry.with_model()
    code, error = await failing(registry.stub.SetAlias(alias_request(1)))
    assert code == grpc.StatusCode.NOT_FOUND
    assert error.reason == errors.Reason.MODEL_VERSION_NOT_FOUND


async def test_set_alias_replay(registry: Registry) -> None:
    """The same move with the same request id is a replay, also after another move."""
    await registry.with_model()
    await registry.with_version()
    await registry.with_version()
    first = alias_request(1, 1000)
    made = (await registry.stub.SetAlias(first)).alias
    await registry.stub.SetAlias(alias_request(2, 2000))
    again = await registry.stub.SetAlias(first)
    assert again.replayed
    assert again.alias == made
    assert await pointed_at(registry) == 2


async def test_set_alias_concurrently(registry: Registry) -> None:
    """Moves at the same moment all land, in one order."""
    await registry.with_model()
    for _ in range(4):
        await registry.with_version()
    await asyncio.gather(*(registry.stub.SetAlias(alias_request(i % 4 + 1)) for i in range(12)))
    listed = await registry.stub.ListAliasEvents(pb.ListAliasEventsRequest(model="late"))
    assert len(listed.events) == 12
    assert listed.events[0].version == await pointed_at(registry)
    times = [event.valid_from for event in listed.events]
    assert times == sorted(times, reverse=True)


async def test_set_alias_needs_actor(registry: Registry) -> None:
    """Who moves an alias has to be said."""
    await registry.with_model()
    await registry.with_version()
    request = alias_request(1)
    request.actor = " "
    _, error = await failing(registry.stub.SetAlias(request))
    assert error.reason == errors.Reason.MISSING_FIELD
    assert error.violations[0].field == "actor"


async def test_list_alias_events_pages(registry: Registry) -> None:
    """Pages hold every event once, newest first."""
    await registry.with_model()
    await registry.with_version()
    for index in range(5):
        await registry.stub.SetAlias(alias_request(1, 1000 + index))
    found: list[int] = []
    token = ""
    while not found or token:
        answer = await registry.stub.ListAliasEvents(
            pb.ListAliasEventsRequest(model="late", page_size=2, page_token=token)
        )
        found += [event.valid_from for event in answer.events]
        token = answer.next_page_token
    assert found == [1004, 1003, 1002, 1001, 1000]
