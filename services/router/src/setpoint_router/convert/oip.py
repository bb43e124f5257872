"""Requests of the Open Inference Protocol into questions to a route, and answers into replies.

A model of the protocol is a route here. What the versions of a route have in common is what callers
can rely on: its tensors where all of them have the same, else the columns.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import value as column_values
from setpoint_columns.dtypes import FLOATS, NUMBERS, NUMPY_TYPES
from setpoint_oip import layout, parameters, tensors
from setpoint_oip.datatypes import AnyArray
from setpoint_oip.layout import Held, Layout
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_router.convert.requests import python_value
from setpoint_router.domain import degradation
from setpoint_router.domain.degradation import Degradation, DegradationKind
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import AssignmentReason, Field, ServedTensor, ServedVersion
from setpoint_router.service import callers_batch
from setpoint_runtime import errors

PLATFORM: Final = "setpoint_router"

ASSIGNMENT_KEY: Final = f"{parameters.PREFIX}assignment_key"
EVENT_TIME: Final = f"{parameters.PREFIX}event_time"
REPLAYED: Final = f"{parameters.PREFIX}replayed"

_ENTITY = "entity_"
_KINDS: Final = {
    "assignment_key": parameters.TEXT,
    "event_time": parameters.WHOLE,
    "request_id": parameters.TEXT,
    _ENTITY: parameters.ANY,
}
"""Parameters of a request. Key and time may be tensors as well, with a value for each row."""

_ASKED: Final = (
    Held(ASSIGNMENT_KEY, DataType.STRING, (ASSIGNMENT_KEY,)),
    Held(EVENT_TIME, DataType.TIMESTAMP, (EVENT_TIME,)),
)
_FACTS: Final = {
    "prediction_id": DataType.STRING,
    "version": DataType.INT64,
    "slot": DataType.INT32,
    "reason": DataType.STRING,
    "degradations": DataType.STRING,
}
"""What is known of each row beside the model's outputs, to be asked for as outputs."""

_TYPES: Final[dict[type, DataType]] = {
    bool: DataType.BOOL,
    int: DataType.INT64,
    float: DataType.FLOAT64,
    str: DataType.STRING,
}


class Sides(NamedTuple):
    """What some versions of a route take and give."""

    inputs: Layout
    outputs: Layout


def sides_of(route: ServingRoute) -> Sides:
    """Return what all versions of a route take and give, worked out once a revision."""
    cache = route.plans[0].cache
    found = cache.get("oip")
    if found is None:
        found = cache["oip"] = sides([plan.version for plan in route.plans])
    made: Sides = found
    return made


def sides(versions: Sequence[ServedVersion]) -> Sides:
    """Return what some versions take and give in common."""
    inputs: dict[str, Field] = {}
    others: dict[str, Field] = {}
    for version in versions:
        inputs |= {each.name: each for each in version.inputs if each.name not in inputs}
        for each in (*version.key_columns, *version.request_fields):
            others.setdefault(each.name, each)
    outputs = _in_common(versions)
    columns = _alone(inputs.values())
    also = [*_alone(others.values()), *_ASKED, *columns]
    taken = _same(versions, lambda version: version.input_tensors, inputs)
    given = _same(versions, lambda version: version.output_tensors, outputs)
    names = {f"{parameters.PREFIX}{name}": dtype for name, dtype in _FACTS.items()}
    facts = [Held(name, dtype, (name,)) for name, dtype in names.items()]
    return Sides(Layout(taken or columns, also), Layout(given or _alone(outputs.values()), facts))


def _alone(fields: Iterable[Field]) -> list[Held]:
    return [Held(each.name, each.dtype, (each.name,)) for each in fields]


def _in_common(versions: Sequence[ServedVersion]) -> dict[str, Field]:
    """Return the outputs that every version gives; numbers of different types are FLOAT64."""
    common = {each.name: each for each in versions[0].outputs}
    for version in versions[1:]:
        there = {each.name: each.dtype for each in version.outputs}
        for name, field in list(common.items()):
            dtype = there.get(name)
            if dtype is field.dtype:
                continue
            if dtype in NUMBERS and field.dtype in NUMBERS:
                common[name] = Field(name, DataType.FLOAT64)
            else:
                del common[name]
    return common


def _same(
    versions: Sequence[ServedVersion],
    of: Callable[[ServedVersion], tuple[ServedTensor, ...]],
    fields: Mapping[str, Field],
) -> list[Held]:
    """Return the tensors of versions that all have the same ones, else none."""
    first = of(versions[0])
    held = {name for each in first for name in each.columns}
    if held != fields.keys() or any(of(version) != first for version in versions):
        return []
    return [Held(each.name, fields[each.columns[0]].dtype, each.columns) for each in first]


class Question:
    """What a caller asks of a route."""

    def __init__(self, request: pb.ModelInferRequest, route: ServingRoute) -> None:
        """Read a request.

        Raises:
            InvalidArgumentError: Names tensor, parameter or version, the value and the rule.
            NotFoundError: The route does not have the version.
            UnimplementedError: An output is wanted in another form.
        """
        _check_version(request.model_version, route)
        self._request = request
        self.route = route
        given = parameters.ours(request.parameters, _KINDS)
        self.request_id = str(given.pop("request_id", ""))
        known = sides_of(route)
        self._specs = known.outputs.wanted(request.outputs)
        columns = known.inputs.columns(tensors.of_request(request, known.inputs.check))
        self.columns = _with_parameters(columns, given)
        self.rows = columns.rows

    def each(self) -> list[router_service_pb2.PredictRequest]:
        """Return the rows as single predictions."""
        names = self.route.plans[0].names
        is_given = callers_batch.is_given(self.columns, self.route)
        make = router_service_pb2.PredictRequest
        made = [make(route=self.route.route.name) for _ in range(self.rows)]
        for column in self.columns.columns:
            name = column.name
            if name == ASSIGNMENT_KEY:
                for request, value in zip(made, column.to_list(), strict=True):
                    request.assignment_key = value
            elif name == EVENT_TIME:
                for request, value in zip(made, column.to_list(), strict=True):
                    request.event_time = value
            elif name in names.entities and not is_given:
                for request, value in zip(made, column.to_list(), strict=True):
                    request.entities[name].CopyFrom(_message(column.dtype, value))
            elif name not in names.entities or name in names.given:
                for request, value in zip(made, column.to_list(), strict=True):
                    request.inputs[name].CopyFrom(_message(column.dtype, value))
        return made

    def batch(self) -> callers_batch.BatchAsk:
        """Return the question as a batch."""
        return callers_batch.BatchAsk(
            route=self.route.route.name,
            rows=self.columns,
            assignment_key_column=ASSIGNMENT_KEY if ASSIGNMENT_KEY in self.columns else "",
            event_time_column=EVENT_TIME if EVENT_TIME in self.columns else "",
        )

    def reply_of_each(
        self, answers: Sequence[router_service_pb2.PredictResponse]
    ) -> pb.ModelInferResponse:
        """Return the answers of single predictions, at least one."""
        values: dict[str, Sequence[Any]] = {
            name: [python_value(each.outputs[name]) for each in answers]
            for name, _ in self._columns()
            if not name.startswith(parameters.PREFIX)
        }
        assignments = [each.assignment for each in answers]
        facts: _Facts = {
            "prediction_id": [each.prediction_id for each in answers],
            "version": [each.model_version.version for each in assignments],
            "slot": [each.slot for each in assignments],
            "reason": [AssignmentReason(each.reason).name for each in assignments],
            "degradations": [_degradations(each) for each in answers],
        }
        told: dict[str, parameters.Value] = {"route_revision": assignments[0].route_revision}
        if len(answers) == 1:
            told |= {name: facts[name][0] for name in ("slot", "reason", "degradations")}
            if members := assignments[0].versions:
                told["versions"] = ",".join(map(str, members))
            if feature_set := answers[0].feature_set.name:
                told["feature_set"] = f"{feature_set}@{answers[0].feature_set.version}"
        return self._reply(values, facts, told)

    def reply_of_batch(self, answer: callers_batch.BatchAnswer) -> pb.ModelInferResponse:
        """Return the answer of a batch.

        Raises:
            SetpointError: Why the first row failed that did; the protocol has no status of a row.
        """
        for failure in answer.failures:
            if failure is not None:
                raise failure
        results = {each.name: each.to_list() for each in answer.results.columns}
        results["reason"] = [AssignmentReason(each).name for each in results["reason"]]
        results["degradations"] = [each or "" for each in results["degradations"]]
        values = {each.name: each.to_list() for each in answer.outputs.columns}
        return self._reply(values, results, {"route_revision": answer.route_revision})

    def _columns(self) -> list[tuple[str, DataType]]:
        return [(name, spec.dtype) for spec in self._specs for name in spec.columns]

    def _reply(
        self,
        values: Mapping[str, Sequence[Any]],
        facts: "_Facts",
        told: Mapping[str, parameters.Value],
    ) -> pb.ModelInferResponse:
        request = self._request
        known = {f"{parameters.PREFIX}{name}": facts[name] for name in _FACTS} | dict(values)
        # Without rows there are no outputs either.
        arrays = {name: _array(name, known.get(name, ()), dtype) for name, dtype in self._columns()}
        response = pb.ModelInferResponse(
            model_name=request.model_name,
            model_version=",".join(map(str, sorted(set(facts["version"])))),
            id=request.id,
        )
        made = layout.gathered(self._specs, arrays, self.rows)
        tensors.fill_response(response, made, is_raw=bool(request.raw_input_contents))
        added: dict[str, parameters.Value] = {
            "route": self.route.route.name,
            "prediction_id": ",".join(facts["prediction_id"]),
            "degraded": any(facts["degradations"]),
            **told,
        }
        for name, value in added.items():
            response.parameters[f"{parameters.PREFIX}{name}"].CopyFrom(parameters.message(value))
        return response


_Facts = Mapping[str, Sequence[Any]]
"""What is known of each row, by name."""


def _degradations(answer: router_service_pb2.PredictResponse) -> str:
    return degradation.to_text(
        Degradation(DegradationKind(each.kind), each.subject) for each in answer.degradations
    )


def about_inputs(error: errors.InvalidArgumentError) -> errors.InvalidArgumentError:
    """Return an error about the rows of a batch as one about the inputs that they came in."""
    field = error.metadata.get("field", "")
    return errors.InvalidArgumentError(
        error.reason,
        _ROWS.sub("inputs", error.message),
        violations=[
            errors.FieldViolation(_ROWS.sub("inputs", each.field), each.description)
            for each in error.violations
        ],
        metadata={**error.metadata, "field": _ROWS.sub("inputs", field)}
        if field
        else error.metadata,
    )


_ROWS: Final = re.compile(r"^rows(?=\[)")
"""Begins the path of a value in a batch."""


def metadata(route: ServingRoute, version: str) -> pb.ModelMetadataResponse:
    """Return the description of a route, or of one of its versions.

    Raises:
        NotFoundError: The route does not have the version.
    """
    asked = asked_plans(route, version)
    found = sides([plan.version for plan in asked]) if version else sides_of(route)
    return pb.ModelMetadataResponse(
        name=route.route.name,
        versions=list(_plans(route)),
        platform=PLATFORM,
        inputs=found.inputs.metadata(),
        outputs=found.outputs.metadata(),
    )


def asked_plans(route: ServingRoute, version: str) -> list[Plan]:
    """Return the version of a route that is asked about, all of them without one.

    Raises:
        NotFoundError: The route does not have it.
    """
    plans = _plans(route)
    if not version:
        return list(plans.values())
    found = plans.get(version)
    if found is not None:
        return [found]
    name = route.route.name
    raise errors.NotFoundError(
        errors.Reason.MODEL_VERSION_NOT_FOUND,
        f"route {name!r} has no version {version[:100]!r}",
        metadata={"route": name, "version": version[:100]},
    )


def _plans(route: ServingRoute) -> dict[str, Plan]:
    """Return who may answer callers, by version as text; an ensemble is version 0."""
    found = {plan.version.version: plan for plan in route.plans}
    return {str(number): found[number] for number in sorted(found)}


def _check_version(version: str, route: ServingRoute) -> None:
    """Refuse a wish for a version where the route has a choice."""
    if not version:
        return
    asked_plans(route, version)
    there = _plans(route)
    if len(there) > 1:
        rule = f"must be empty: the route decides among versions {', '.join(there)}"
        raise errors.invalid("model_version", version, rule)


def _with_parameters(columns: Columns, given: Mapping[str, parameters.Value]) -> Columns:
    """Return columns with what parameters say of every row."""
    for short, value in given.items():
        name = short.removeprefix(_ENTITY)
        dtype = _TYPES[type(value)]
        if name == short:
            name = f"{parameters.PREFIX}{short}"
            dtype = DataType.TIMESTAMP if name == EVENT_TIME else DataType.STRING
        if name in columns:
            path = f'parameters["{parameters.PREFIX}{short}"]'
            raise tensors.malformed(path, value, "is in a tensor as well")
        columns = columns.with_column(Column.from_list(name, [value] * columns.rows, dtype))
    return columns


def _message(dtype: DataType, value: Any) -> value_pb2.Value:
    if dtype is DataType.TIMESTAMP:
        return value_pb2.Value(timestamp_value=value)
    return column_values.to_proto(value)


def _array(name: str, values: Sequence[Any], dtype: DataType) -> AnyArray:
    """Return the values of an output; a null is NaN, and nothing else can stand for one.

    Raises:
        UnimplementedError: Names the output and its row.
    """
    if None in values:
        if dtype not in FLOATS:
            raise _no_form(name, values.index(None), dtype)
        values = [np.nan if each is None else each for each in values]
    if dtype is DataType.STRING:
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.array(values, NUMPY_TYPES[dtype])


def _no_form(name: str, row: int, dtype: DataType) -> errors.UnimplementedError:
    path = f'outputs["{name[:100]}"][{row}]'
    return errors.UnimplementedError(
        errors.Reason.UNIMPLEMENTED,
        f"{path}: is null, for which the protocol has no form in {dtype.name}; Predict and "
        "PredictBatch have one",
        metadata={"field": path},
    )
