"""What a job reads of its input: which columns, as which types, and whether features are fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import setpoint_artifacts.proto as artifact_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns import DataType

Fields = dict[str, DataType]


@dataclass(frozen=True, slots=True)
class Model:
    """The version that answers."""

    name: str
    version: int
    digest: str
    size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def fields(self) -> Fields:
        """The model's input columns."""
        return {name: spec.dtype for spec in self.inputs for name in spec.columns}


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The feature set that it was trained on."""

    name: str
    version: str
    keys: Fields
    features: tuple[str, ...]
    """What the feature service fills, what it computes included."""
    request_fields: Fields
    request_columns: tuple[str, ...] = ()
    """Request fields that it computes with."""


@dataclass(frozen=True, slots=True)
class Form:
    """How rows are read."""

    by_entities: bool
    entities: Fields
    given: Fields
    """Request fields, or all inputs."""
    event_time_column: str
    kept: tuple[str, ...]

    @property
    def typed(self) -> Fields:
        """Every column whose type matters."""
        time = {self.event_time_column: DataType.TIMESTAMP} if self.event_time_column else {}
        return {**self.entities, **self.given, **time}

    @property
    def needed(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys([*self.typed, *self.kept]))

    @property
    def copied(self) -> list[str]:
        """The columns of the input that the output has as well."""
        return list(dict.fromkeys([*self.entities, *self.kept]))


def model_of(told: Mapping[str, Any]) -> Model:
    """Reads a task's model."""
    manifest = model_pb2.Manifest.FromString(bytes.fromhex(told["manifest"]))
    return Model(
        told["model"],
        told["version"],
        manifest.artifact_digest,
        manifest.artifact_size,
        tuple(artifact_messages.tensor_from_proto(each, "inputs") for each in manifest.inputs),
        tuple(artifact_messages.tensor_from_proto(each, "outputs") for each in manifest.outputs),
    )


def feature_set_of(told: Mapping[str, Any] | None) -> FeatureSet | None:
    """Reads a task's feature set."""
    if told is None:
        return None
    return FeatureSet(
        told["name"],
        told["version"],
        _fields(told["keys"]),
        tuple(told["features"]),
        _fields(told["request_fields"]),
        # Tasks of earlier releases have none.
        tuple(told.get("request_columns", ())),
    )


def form_of(task: Mapping[str, Any]) -> Form:
    """Reads the form that was settled when the input was looked through."""
    told = task["form"]
    return Form(
        told["by_entities"],
        _fields(told["entities"]),
        _fields(told["given"]),
        told["event_time_column"],
        tuple(told["kept"]),
    )


def form_to_json(form: Form) -> dict[str, Any]:
    """Writes a form."""
    return {
        "by_entities": form.by_entities,
        "entities": {name: int(dtype) for name, dtype in form.entities.items()},
        "given": {name: int(dtype) for name, dtype in form.given.items()},
        "event_time_column": form.event_time_column,
        "kept": list(form.kept),
    }


def choose(
    model: Model,
    feature_set: FeatureSet | None,
    present: Collection[str],
    event_time_column: str,
    kept: tuple[str, ...],
) -> Form:
    """Returns how rows with these columns are read; the router's PredictBatch decides alike."""
    inputs = model.fields
    has_keys = feature_set is not None and any(name in present for name in feature_set.keys)
    has_inputs = set(inputs) <= set(present) and bool(feature_set and feature_set.features)
    if feature_set is None or not has_keys or has_inputs:
        return Form(False, {}, inputs, event_time_column, kept)
    return Form(True, feature_set.keys, feature_set.request_fields, event_time_column, kept)


def _fields(told: Mapping[str, int]) -> Fields:
    return {name: DataType(number) for name, number in told.items()}
