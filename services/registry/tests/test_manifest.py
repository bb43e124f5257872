from collections.abc import Callable

import pytest

from setpoint.registry.v1 import model_pb2
from setpoint_registry import testing
from setpoint_registry.convert import manifest
from setpoint_runtime import errors

Manifest = model_pb2.Manifest


def set_digest(each: Manifest) -> None:
    each.artifact_digest = "../x"


def set_format(each: Manifest) -> None:
    each.format = model_pb2.ARTIFACT_FORMAT_UNSPECIFIED


def clear_inputs(each: Manifest) -> None:
    del each.inputs[:]


def repeat_input(each: Manifest) -> None:
    each.inputs.add().CopyFrom(each.inputs[0])


def repeat_column(each: Manifest) -> None:
    each.inputs[0].columns[1] = "a"


def empty_column(each: Manifest) -> None:
    each.inputs[0].columns[1] = ""


def clear_columns(each: Manifest) -> None:
    del each.inputs[0].columns[:]


def unset_dtype(each: Manifest) -> None:
    each.inputs[0].dtype = 0  # type: ignore[assignment]  # on purpose


def missing_elsewhere(each: Manifest) -> None:
    each.inputs[0].missing_values.add(column="c")


def missing_output(each: Manifest) -> None:
    each.outputs[0].missing_values.add(column=each.outputs[0].columns[0])


def empty_samples(each: Manifest) -> None:
    each.samples.SetInParent()


def negative_delay(each: Manifest) -> None:
    each.batching.max_queue_delay_microseconds = -1


def falling_preferences(each: Manifest) -> None:
    each.batching.preferred_batch_rows[:] = [8, 4]


def large_preference(each: Manifest) -> None:
    each.batching.max_batch_rows = 8
    each.batching.preferred_batch_rows[:] = [9]


def clear_outputs(each: Manifest) -> None:
    del each.outputs[:]


def other_score(each: Manifest) -> None:
    each.score_column = "a"


def half_feature_set(each: Manifest) -> None:
    each.feature_set.version = ""


def infinite_threshold(each: Manifest) -> None:
    each.decision_threshold = float("inf")


def falling_edges(each: Manifest) -> None:
    each.reference_profiles[0].edges[:] = [1.0, 0.0]


def few_counts(each: Manifest) -> None:
    del each.reference_profiles[0].counts[0]


def negative_count(each: Manifest) -> None:
    each.reference_profiles[1].counts[0] = -1


def many_levels(each: Manifest) -> None:
    each.reference_profiles[1].levels[:] = [str(index) for index in range(51)]


def small_effect(each: Manifest) -> None:
    each.reference_profiles[0].design_effect = 0.5


def nameless_metric(each: Manifest) -> None:
    each.metrics[0].name = ""


def bad_parent(each: Manifest) -> None:
    each.parents.add(model="late", version=0)


def huge(each: Manifest) -> None:
    each.environment["x"] = "x" * 1_100_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (set_digest, "manifest.artifact_digest"),
        (set_format, "manifest.format"),
        (clear_inputs, "manifest.inputs"),
        (repeat_input, "manifest.inputs"),
        (repeat_column, "manifest.inputs.columns"),
        (empty_column, "manifest.inputs[0].columns[1]"),
        (clear_columns, "manifest.inputs[0].columns"),
        (unset_dtype, "manifest.inputs[0].dtype"),
        (missing_elsewhere, "manifest.inputs[0].missing_values[0].column"),
        (missing_output, "manifest.outputs[0].missing_values"),
        (empty_samples, "manifest.samples.inputs.rows"),
        (negative_delay, "manifest.batching.max_queue_delay_microseconds"),
        (falling_preferences, "manifest.batching.preferred_batch_rows[1]"),
        (large_preference, "manifest.batching.preferred_batch_rows[0]"),
        (clear_outputs, "manifest.outputs"),
        (other_score, "manifest.score_column"),
        (half_feature_set, "manifest.feature_set"),
        (infinite_threshold, "manifest.decision_threshold"),
        (falling_edges, "manifest.reference_profiles[0].edges[1]"),
        (few_counts, "manifest.reference_profiles[0].counts"),
        (negative_count, "manifest.reference_profiles[1].counts"),
        (many_levels, "manifest.reference_profiles[1].levels"),
        (small_effect, "manifest.reference_profiles[0].design_effect"),
        (nameless_metric, "manifest.metrics[0].name"),
        (bad_parent, "manifest.parents[0].version"),
        (huge, "manifest"),
    ],
)
def test_from_proto_names_field(change: Callable[[Manifest], None], field: str) -> None:
    """What is wrong with a manifest is named by its field."""
    message = testing.manifest()
    change(message)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        manifest.from_proto(message)
    assert caught.value.violations[0].field == field


def test_sealed_same_bytes() -> None:
    """Equal manifests have equal bytes, whatever order their maps were filled in."""
    first, second = testing.manifest(), testing.manifest()
    second.environment.clear()
    for name in ("numpy", "seed"):
        second.environment[name] = testing.manifest().environment[name]
    assert manifest.from_proto(first).sealed(7) == manifest.from_proto(second).sealed(7)


def test_sealed_sets_size() -> None:
    """The size is the registry's, whatever the caller said; the request stays untouched."""
    message = testing.manifest()
    message.artifact_size = 1
    content = manifest.from_proto(message).sealed(99)
    assert Manifest.FromString(content).artifact_size == 99
    assert message.artifact_size == 1
