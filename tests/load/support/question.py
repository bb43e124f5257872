"""The question that the serving benchmark asks: 20 numbers of an account, 100 trees, one probability."""

import datetime as dt
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn import ensemble
from tests.load.support import http2
from tests.support import waiting

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint.validation.v1 import suite_pb2, validation_service_pb2
from setpoint_client import AsyncClient
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_oip.protocol import open_inference_pb2
from setpoint_retraining.training import encoding
from setpoint_runtime import ids

NAME = "account_risk"
"""Of the model, its route, and its feature set."""

KEY = "account_id"
SCORE = "probability"
ACCOUNTS = 10_000
TREES = 100
TRAINING_ROWS = 20_000
VIEWS = ("account_balance", "account_activity")
FIELDS_OF_A_VIEW = 10
FEATURES = tuple(f"number_{place:02}" for place in range(FIELDS_OF_A_VIEW * len(VIEWS)))
ASKED = 2_000
"""Different accounts that are asked about in turn."""

MODEL_VARIABLE = "PLAIN_MODEL"
"""Names the estimator's file to the servers beside."""

CROWD_ROUTES, CROWD_VERSIONS = 200, 5

TOLERANCE = 1e-4
"""Between the estimator and the converted model."""

LIMIT = 100.0
"""Numbers beyond it are refused by the rules."""

CALL_SECONDS = 60.0
PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """The trained model and the numbers of all accounts."""

    estimator: Any
    artifact: bytes
    numbers: npt.NDArray[np.float32]
    """Shape [accounts, features]; the place of a row is the account's key."""

    def expected(self, account: int) -> float:
        """Returns what the estimator says about an account."""
        return float(self.estimator.predict_proba(self.numbers[account : account + 1])[0, 1])


def train() -> Question:
    """Draws the accounts and fits the model; the same each time."""
    random = np.random.default_rng(20)
    shape = (ACCOUNTS + TRAINING_ROWS, len(FEATURES))
    numbers = random.normal(0, 3, shape).clip(-LIMIT / 2, LIMIT / 2).astype(np.float32)
    tendency = numbers[:, :6].sum(axis=1) / 4 + np.sin(numbers[:, 6]) * numbers[:, 7]
    label = tendency + random.normal(0, 2, len(numbers)) > 0
    estimator = ensemble.HistGradientBoostingClassifier(
        max_iter=TREES, early_stopping=False, random_state=0
    ).fit(numbers[ACCOUNTS:], label[ACCOUNTS:])
    artifact = encoding.to_onnx(estimator, encoding.Encoding.learn(FEATURES, {}))
    return Question(estimator, artifact, numbers[:ACCOUNTS])


async def publish(question: Question, client: AsyncClient) -> None:
    """Brings the question into a running stack the way a user does, until its route answers."""
    feature_set = await _define(client)
    await _write(question, client)
    await _put_suite(client)
    await client.stubs.registry.UploadArtifact(
        iter(_upload(question.artifact)), timeout=CALL_SECONDS
    )
    await _create(NAME, client)
    await _serve(NAME, [await _register(NAME, question, client, feature_set)], client)
    await _ready(question, client)


async def publish_beside(name: str, question: Question, client: AsyncClient) -> None:
    """Adds another model of the same numbers to what `publish` made, with a route of its own."""
    known = await client.stubs.registry.GetModelVersion(
        registry_service_pb2.GetModelVersionRequest(
            model_version=reference_pb2.ModelVersionReference(model=NAME, version=1)
        ),
        timeout=CALL_SECONDS,
    )
    await client.stubs.registry.UploadArtifact(
        iter(_upload(question.artifact)), timeout=CALL_SECONDS
    )
    await _create(name, client)
    version = await _register(name, question, client, known.model_version.manifest.feature_set)
    await _serve(name, [version], client)


async def publish_crowd(question: Question, client: AsyncClient) -> None:
    """Adds routes with several versions each to what `publish` made; all say the same."""
    known = await client.stubs.registry.GetModelVersion(
        registry_service_pb2.GetModelVersionRequest(
            model_version=reference_pb2.ModelVersionReference(model=NAME, version=1)
        ),
        timeout=CALL_SECONDS,
    )
    feature_set = known.model_version.manifest.feature_set
    for name in crowd():
        await _create(name, client)
        versions = [
            await _register(name, question, client, feature_set) for _ in range(CROWD_VERSIONS)
        ]
        await _serve(name, versions, client)


def crowd() -> list[str]:
    """Names the routes of `publish_crowd`."""
    return [f"{NAME}_{place:03}" for place in range(CROWD_ROUTES)]


async def _define(client: AsyncClient) -> reference_pb2.FeatureSetReference:
    feature = client.stubs.feature
    key = reference_pb2.FieldSpec(name=KEY, dtype=column_pb2.DATA_TYPE_INT64)
    entity = definition_pb2.Entity(name="account", keys=[key])
    await feature.RegisterEntity(
        feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity),
        timeout=CALL_SECONDS,
    )
    for name, fields in _views():
        view = definition_pb2.FeatureView(
            name=name,
            entity=entity.name,
            fields=[
                definition_pb2.FeatureField(name=field, dtype=column_pb2.DATA_TYPE_FLOAT32)
                for field in fields
            ],
        )
        await feature.RegisterFeatureView(
            feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view),
            timeout=CALL_SECONDS,
        )
    references = [
        definition_pb2.FeatureReference(view=name, field=field)
        for name, fields in _views()
        for field in fields
    ]
    registered = await feature.RegisterFeatureSet(
        feature_service_pb2.RegisterFeatureSetRequest(
            request_id=ids.uuid7(),
            feature_set=definition_pb2.FeatureSet(name=NAME, features=references),
        ),
        timeout=CALL_SECONDS,
    )
    return reference_pb2.FeatureSetReference(name=NAME, version=registered.feature_set.version)


def _views() -> Iterator[tuple[str, tuple[str, ...]]]:
    for place, name in enumerate(VIEWS):
        begin = place * FIELDS_OF_A_VIEW
        yield name, FEATURES[begin : begin + FIELDS_OF_A_VIEW]


async def _write(question: Question, client: AsyncClient) -> None:
    time = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    table = pl.DataFrame(question.numbers, schema=list(FEATURES)).with_columns(
        pl.int_range(ACCOUNTS, dtype=pl.Int64).alias(KEY),
        pl.lit(time).dt.cast_time_unit("us").alias("event_time"),
    )
    for name, fields in _views():
        await client.write_features(
            name, table.select(KEY, "event_time", *fields), timeout=CALL_SECONDS
        )


async def _put_suite(client: AsyncClient) -> None:
    rules = [
        suite_pb2.Rule(
            severity=suite_pb2.SEVERITY_REJECT,
            range=suite_pb2.RangeRule(column=name, min=-LIMIT, max=LIMIT),
        )
        for name in FEATURES
    ]
    suite = suite_pb2.Suite(name=NAME, feature_set=NAME, rules=rules)
    await client.stubs.validation.PutSuite(
        validation_service_pb2.PutSuiteRequest(request_id=ids.uuid7(), suite=suite),
        timeout=CALL_SECONDS,
    )


async def _create(name: str, client: AsyncClient) -> None:
    model = model_pb2.Model(name=name, task=model_pb2.TASK_BINARY_CLASSIFICATION, owner="bench")
    await client.stubs.registry.CreateModel(
        registry_service_pb2.CreateModelRequest(request_id=ids.uuid7(), model=model),
        timeout=CALL_SECONDS,
    )


async def _register(
    name: str,
    question: Question,
    client: AsyncClient,
    feature_set: reference_pb2.FeatureSetReference,
) -> model_pb2.ModelVersion:
    """Registers a version and approves it."""
    registry = client.stubs.registry
    created = await registry.CreateModelVersion(
        registry_service_pb2.CreateModelVersionRequest(
            request_id=ids.uuid7(), model=name, manifest=_manifest(question, feature_set)
        ),
        timeout=CALL_SECONDS,
    )
    version = created.model_version
    await registry.DecideApproval(
        registry_service_pb2.DecideApprovalRequest(
            request_id=ids.uuid7(),
            model_version=reference_pb2.ModelVersionReference(model=name, version=version.version),
            manifest_digest=version.manifest_digest,
            decision=model_pb2.APPROVAL_STATE_APPROVED,
            approver="bench",
        ),
        timeout=CALL_SECONDS,
    )
    return version


def _upload(artifact: bytes) -> Iterator[registry_service_pb2.UploadArtifactRequest]:
    header = registry_service_pb2.ArtifactHeader(
        digest=_digest(artifact), size=len(artifact), format=model_pb2.ARTIFACT_FORMAT_ONNX
    )
    yield registry_service_pb2.UploadArtifactRequest(header=header)
    for begin in range(0, len(artifact), PIECE_BYTES):
        piece = artifact[begin : begin + PIECE_BYTES]
        yield registry_service_pb2.UploadArtifactRequest(data=piece)


def _digest(artifact: bytes) -> str:
    return hashlib.sha256(artifact).hexdigest()


def _manifest(
    question: Question, feature_set: reference_pb2.FeatureSetReference
) -> model_pb2.Manifest:
    numbers = model_pb2.TensorSpec(
        name=encoding.NUMBERS, dtype=column_pb2.DATA_TYPE_FLOAT32, columns=FEATURES
    )
    probabilities = model_pb2.TensorSpec(
        name=encoding.PROBABILITIES,
        dtype=column_pb2.DATA_TYPE_FLOAT32,
        columns=[f"not_{SCORE}", SCORE],
    )
    return model_pb2.Manifest(
        artifact_digest=_digest(question.artifact),
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=[numbers],
        outputs=[probabilities],
        feature_set=feature_set,
        code_version="bench",
        score_column=SCORE,
    )


async def _serve(
    name: str, versions: Sequence[model_pb2.ModelVersion], client: AsyncClient
) -> None:
    """Makes a route on which versions have equal shares."""
    share = 10_000 // len(versions)
    route = route_pb2.Route(
        name=name,
        model=name,
        weights=[
            route_pb2.VersionWeight(version=each.version, basis_points=share) for each in versions
        ],
        actor="bench",
    )
    await client.stubs.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route),
        timeout=CALL_SECONDS,
    )


async def _ready(question: Question, client: AsyncClient) -> None:
    """Waits until nothing is amiss with an answer, rules included, and compares it."""
    for message in (full_path(0), features_given(question, 0)):
        ask = functools.partial(client.stubs.router.Predict, message, timeout=CALL_SECONDS)
        reply = await waiting.until(ask, lambda reply: not reply.degradations)
        found = reply.outputs[SCORE].double_value
        if abs(found - question.expected(0)) > TOLERANCE:
            raise AssertionError(f"the stack says {found}, the estimator {question.expected(0)}")


def full_path(account: int) -> router_service_pb2.PredictRequest:
    """Asks about an account by its key."""
    request = router_service_pb2.PredictRequest(route=NAME)
    request.entities[KEY].int_value = account
    return request


def features_given(
    question: Question, account: int, route: str = NAME
) -> router_service_pb2.PredictRequest:
    """Asks about an account by its numbers; it is assigned by the same key."""
    request = router_service_pb2.PredictRequest(route=route, assignment_key=str(account))
    for name, number in zip(FEATURES, question.numbers[account].tolist(), strict=True):
        request.inputs[name].double_value = number
    return request


def given_rows(question: Question, rows: int) -> router_service_pb2.PredictBatchRequest:
    """Asks about the first accounts by their numbers, in one batch."""
    columns = Columns.from_dict(
        {
            name: (DataType.FLOAT32, question.numbers[:rows, place].tolist())
            for place, name in enumerate(FEATURES)
        }
    )
    return router_service_pb2.PredictBatchRequest(route=NAME, rows=columns_proto.to_proto(columns))


def accounts() -> list[int]:
    """Returns the accounts to ask about, in turn."""
    return [int(each) for each in np.random.default_rng(1).integers(ACCOUNTS, size=ASKED)]


@dataclass(frozen=True, slots=True)
class Files:
    """What generators and the plain design read."""

    full_path: Path
    features_given: Path
    plain: Path
    empty: Path
    model: Path


def write_files(question: Question, folder: Path) -> Files:
    """Writes the messages of every side, framed as gRPC does, and the estimator."""
    files = Files(*(folder / name for name in ("full", "given", "plain", "empty", "model.joblib")))
    asked = accounts()
    _write_messages(files.full_path, (full_path(each).SerializeToString() for each in asked))
    given = (features_given(question, each).SerializeToString() for each in asked)
    _write_messages(files.features_given, given)
    write_json(question, files.plain)
    _write_messages(files.empty, [b""])
    joblib.dump(question.estimator, files.model)
    return files


def write_json(question: Question, path: Path) -> None:
    """Writes a row a message, as FastAPI and others take it."""
    rows = (_json_row(question.numbers[each].tolist()) for each in accounts())
    _write_messages(path, rows)


def write_json_rows(question: Question, path: Path) -> None:
    """Writes a list of one row a message, as BentoML batches it."""
    rows = (question.numbers[each].tolist() for each in accounts())
    _write_messages(
        path, (_json_row(each).replace(b"[", b"[[").replace(b"]", b"]]") for each in rows)
    )


def write_open_inference(question: Question, path: Path) -> None:
    """Writes a row a message, in the Open Inference Protocol, asking for probabilities."""
    made = []
    for account in accounts():
        request = open_inference_pb2.ModelInferRequest(model_name=NAME)
        tensor = request.inputs.add(name="values", datatype="FP32", shape=[1, len(FEATURES)])
        tensor.contents.fp32_contents.extend(question.numbers[account].tolist())
        request.outputs.add(name="predict_proba")
        made.append(request.SerializeToString())
    _write_messages(path, made)


def write_crowd(question: Question, path: Path) -> None:
    """Writes messages that give the features, to the routes of `publish_crowd` in turn."""
    turns = zip(accounts(), itertools.cycle(crowd()), strict=False)
    _write_messages(
        path,
        (features_given(question, each, route).SerializeToString() for each, route in turns),
    )


def _write_messages(path: Path, contents: Iterable[bytes]) -> None:
    path.write_bytes(b"".join(map(http2.message, contents)))


def _json_row(numbers: list[float]) -> bytes:
    return b'{"values":[%b]}' % ",".join(f"{number:.6g}" for number in numbers).encode()
