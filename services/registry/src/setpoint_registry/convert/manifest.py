"""Manifests: checked once on their way in, kept as the bytes that digests and approvals are of."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import setpoint_artifacts.proto as artifact_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import digest as digests
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.dtypes import MAX_NAME_LENGTH
from setpoint_registry import domain
from setpoint_registry.convert import messages
from setpoint_runtime import errors, names

_MAX_LEVELS = 50
_MORE_THAN_EDGES = 3  # Bins are one more than edges; then missing and invalid.
_MORE_THAN_LEVELS = 4  # Other, unseen, missing and invalid.


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest that passed its checks."""

    message: model_pb2.Manifest
    artifact_digest: str
    artifact_format: domain.ArtifactFormat
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parents: tuple[domain.VersionKey, ...]

    def sealed(self, artifact_size: int) -> bytes:
        """Return the bytes of the finished manifest, the same ones for the same content."""
        finished = model_pb2.Manifest()
        finished.CopyFrom(self.message)
        finished.artifact_size = artifact_size
        return finished.SerializeToString(deterministic=True)


def from_proto(message: model_pb2.Manifest) -> Draft:
    """Check a manifest.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    size = message.ByteSize()
    if size > domain.MAX_MANIFEST_BYTES:
        raise errors.invalid(
            "manifest",
            f"{size} bytes",
            f"must have at most {domain.MAX_MANIFEST_BYTES} bytes",
            errors.Reason.TOO_LARGE,
        )
    if not digests.is_digest(message.artifact_digest):
        raise errors.invalid(
            "manifest.artifact_digest",
            message.artifact_digest,
            "must be a sha256 in lower-case hexadecimal",
        )
    outputs = _tensors("manifest.outputs", message.outputs)
    for index, spec in enumerate(outputs):
        if spec.missing:
            field = f"manifest.outputs[{index}].missing_values"
            raise errors.invalid(field, spec.missing[0].column, "is for inputs alone")
    draft = Draft(
        message,
        message.artifact_digest,
        messages.format_from_proto(message.format, "manifest.format"),
        _tensors("manifest.inputs", message.inputs),
        outputs,
        tuple(_parents(message)),
    )
    if message.HasField("samples"):
        artifact_messages.samples_from_proto(
            message.samples, draft.inputs, outputs, "manifest.samples"
        )
    _check_batching(message.batching)
    _check_scoring(message, outputs)
    _check_training(message)
    for index, profile in enumerate(message.reference_profiles):
        _check_profile(f"manifest.reference_profiles[{index}]", profile)
    return draft


def _tensors(field: str, specs: Sequence[model_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    if not specs:
        raise errors.invalid(field, [], "must not be empty", errors.Reason.MISSING_FIELD)
    made = tuple(_tensor(f"{field}[{index}]", spec) for index, spec in enumerate(specs))
    _check_unique(field, (spec.name for spec in made))
    _check_unique(f"{field}.columns", itertools.chain(*(spec.columns for spec in made)))
    return made


def _tensor(field: str, spec: model_pb2.TensorSpec) -> TensorSpec:
    _check_column_name(f"{field}.name", spec.name)
    if not spec.columns:
        raise errors.invalid(
            f"{field}.columns", [], "must not be empty", errors.Reason.MISSING_FIELD
        )
    for index, column in enumerate(spec.columns):
        _check_column_name(f"{field}.columns[{index}]", column)
    return artifact_messages.tensor_from_proto(spec, field)


def _check_column_name(field: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise errors.invalid(field, name, f"must have 1 to {MAX_NAME_LENGTH} characters")


def _check_unique(field: str, found: Iterable[str]) -> None:
    seen = set()
    for name in found:
        if name in seen:
            raise errors.invalid(field, name, "must be there only once")
        seen.add(name)


def _parents(message: model_pb2.Manifest) -> Iterable[domain.VersionKey]:
    for index, parent in enumerate(message.parents):
        field = f"manifest.parents[{index}]"
        names.check_name(f"{field}.model", parent.model)
        yield domain.VersionKey(
            parent.model, messages.version_from_proto(parent.version, f"{field}.version")
        )


def _check_scoring(message: model_pb2.Manifest, outputs: Sequence[TensorSpec]) -> None:
    served = {column for spec in outputs for column in spec.columns}
    if message.score_column and message.score_column not in served:
        raise errors.invalid(
            "manifest.score_column", message.score_column, "must be an output column"
        )
    if message.HasField("decision_threshold") and not math.isfinite(message.decision_threshold):
        raise errors.invalid(
            "manifest.decision_threshold", message.decision_threshold, "must be finite"
        )


def _check_batching(message: model_pb2.Batching) -> None:
    for name in (
        "max_batch_rows",
        "max_queue_delay_microseconds",
        "max_queue_size",
        "timeout_microseconds",
    ):
        if getattr(message, name) < 0:
            raise errors.invalid(
                f"manifest.batching.{name}", getattr(message, name), "must be at least 0"
            )
    last = 0
    for index, rows in enumerate(message.preferred_batch_rows):
        if rows <= last or (message.max_batch_rows and rows > message.max_batch_rows):
            raise errors.invalid(
                f"manifest.batching.preferred_batch_rows[{index}]",
                rows,
                "must rise, to at most max_batch_rows",
            )
        last = rows


def _check_training(message: model_pb2.Manifest) -> None:
    features = message.feature_set
    if bool(features.name) != bool(features.version):
        raise errors.invalid(
            "manifest.feature_set",
            f"{features.name}@{features.version}",
            "must have both name and version, or neither",
        )
    digest = message.snapshot.digest
    if digest and not digests.is_digest(digest):
        raise errors.invalid(
            "manifest.snapshot.digest", digest, "must be a sha256 in lower-case hexadecimal"
        )
    for index, metric in enumerate(message.metrics):
        if not metric.name:
            raise errors.invalid(
                f"manifest.metrics[{index}].name", "", "must be given", errors.Reason.MISSING_FIELD
            )


def _check_profile(field: str, profile: model_pb2.FeatureProfile) -> None:
    _check_column_name(f"{field}.column", profile.column)
    if profile.categorical:
        if profile.edges:
            raise errors.invalid(f"{field}.edges", list(profile.edges), "must be empty for levels")
        if len(profile.levels) > _MAX_LEVELS:
            raise errors.invalid(
                f"{field}.levels", len(profile.levels), f"must be at most {_MAX_LEVELS}"
            )
        wanted = len(profile.levels) + _MORE_THAN_LEVELS
    else:
        if profile.levels:
            raise errors.invalid(f"{field}.levels", list(profile.levels), "must be empty for edges")
        _check_edges(f"{field}.edges", list(profile.edges))
        wanted = len(profile.edges) + _MORE_THAN_EDGES
    if len(profile.counts) != wanted or any(count < 0 for count in profile.counts):
        raise errors.invalid(
            f"{field}.counts", len(profile.counts), f"must be {wanted} counts of at least 0"
        )
    # A profile that says nothing about days has a design effect of 0, which reads as 1.
    if profile.design_effect and not profile.design_effect >= 1:
        raise errors.invalid(f"{field}.design_effect", profile.design_effect, "must be at least 1")


def _check_edges(field: str, edges: Sequence[float]) -> None:
    for index, edge in enumerate(edges):
        if not math.isfinite(edge) or (index and edge <= edges[index - 1]):
            raise errors.invalid(f"{field}[{index}]", edge, "must be finite, and rise")
