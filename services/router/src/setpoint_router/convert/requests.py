"""Reads the named values of requests; implements the port `Codec`.

Most requests hold exactly what they should, so values are read by name in one pass and only what
looks odd (absent, zero, another type) is looked at again. A map of messages returns a new, empty
value for a name that it lacks; whether the map has grown tells that apart.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router.domain import values
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.route import Field
from setpoint_runtime import errors

Values = Mapping[str, value_pb2.Value]

KEY_SEPARATOR = "\x1f"
"""Between the parts of an assignment key made of several entity keys."""

MAX_ROW_TEXT_BYTES = 1024 * 1024
"""Text of all inputs of one prediction; with more its record would not fit into a message."""

_ATTRIBUTES = {
    DataType.BOOL: "bool_value",
    DataType.INT32: "int_value",
    DataType.INT64: "int_value",
    DataType.FLOAT32: "double_value",
    DataType.FLOAT64: "double_value",
    DataType.STRING: "string_value",
    DataType.TIMESTAMP: "timestamp_value",
}
_BYTES_OF_CHARACTER = 4
"""No character takes more."""


class RowReader:
    """Reads the values of one list of fields."""

    def __init__(
        self,
        fields: Sequence[Field],
        allowed: frozenset[str],
        path: str,
        missing: Callable[[str], errors.InvalidArgumentError],
        *,
        nullable: frozenset[str],
        max_text_bytes: int = values.MAX_TEXT_BYTES,
    ) -> None:
        """Prepare a reader.

        Args:
            fields: What to read, in order.
            allowed: Names that may be there.
            path: Name of the map, `inputs` or `entities`.
            missing: Makes the error for an absent field, given its name.
            nullable: Names of fields that may be null.
            max_text_bytes: Most bytes of one text.
        """
        self._fields = tuple(fields)
        self._names = [each.name for each in fields]
        self._count = len(self._names)
        self._allowed = allowed
        self._path = path
        self._missing = missing
        self._nullable = nullable
        self._max_text_bytes = max_text_bytes
        self._surely_short = max_text_bytes // _BYTES_OF_CHARACTER
        kinds = [_ATTRIBUTES[each.dtype] for each in fields]
        self._kinds = kinds
        self._getters = [
            (name, attrgetter(kind)) for name, kind in zip(self._names, kinds, strict=True)
        ]
        self._has_floats_alone = set(kinds) == {"double_value"}
        narrow = (DataType.STRING, DataType.INT32)
        self._narrow = [at for at, each in enumerate(fields) if each.dtype in narrow]

    def read(self, given: Values) -> list[Any]:
        """Return the values in the order of the fields.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        row: list[Any]
        if self._has_floats_alone:
            row = [given[name].double_value for name in self._names]
        else:
            row = [get(given[name]) for name, get in self._getters]
        if not all(row):
            self._look_again(given, row)
        if len(given) != self._count:
            self._refuse_unknown(given)
        if self._narrow:
            self._check_narrow(row)
        return row

    def _look_again(self, given: Values, row: list[Any]) -> None:
        """Tell zeros and empty texts from absent values, nulls and values of another kind."""
        for at, value in enumerate(row):
            if value:
                continue
            kind = given[self._names[at]].WhichOneof("kind")
            if kind != self._kinds[at]:
                self._refuse_unknown(given)
                row[at] = self._other(self._fields[at], given[self._names[at]], kind)

    def _other(self, field: Field, value: value_pb2.Value, kind: str | None) -> Any:
        if kind is None:
            raise self._missing(field.name)
        path = f'{self._path}["{field.name}"]'
        return self._checked(path, python_value(value), field)

    def _check_narrow(self, row: list[Any]) -> None:
        """Check what a kind of value admits but a column does not: long texts, large integers."""
        characters = 0
        for at in self._narrow:
            value = row[at]
            if value.__class__ is str:
                characters += len(value)
                if len(value) <= self._surely_short:
                    continue
            field = self._fields[at]
            path = f'{self._path}["{field.name}"]'
            self._checked(path, value, field)
        if characters * _BYTES_OF_CHARACTER > MAX_ROW_TEXT_BYTES:
            rule = f"must have at most {MAX_ROW_TEXT_BYTES // _BYTES_OF_CHARACTER} characters of text together"
            raise errors.invalid(
                self._path, f"{characters} characters", rule, errors.Reason.TOO_LARGE
            )

    def _checked(self, path: str, value: Any, field: Field) -> Any:
        return values.check_value(
            path,
            value,
            field.dtype,
            may_be_null=field.name in self._nullable,
            max_text_bytes=self._max_text_bytes,
        )

    def _refuse_unknown(self, given: Values) -> None:
        for name in sorted(given):
            if name not in self._allowed:
                raise values.unknown(f'{self._path}["{name[:100]}"]', name)


class RequestCodec:
    """Reads prediction requests by the plans of their versions."""

    def entity_key(self, source: router_service_pb2.PredictRequest) -> str:
        """Return the assignment key that the entities of a request make."""
        entities = source.entities
        parts = []
        for name in sorted(entities):
            value = python_value(entities[name])
            parts.append(value if value.__class__ is str else "" if value is None else str(value))
        return KEY_SEPARATOR.join(parts)

    def given_row(self, source: router_service_pb2.PredictRequest, plan: Plan) -> Sequence[Any]:
        """Return the model's inputs as the request gives them.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        found = plan.cache.get("given")
        if found is None:
            found = RowReader(
                plan.version.inputs,
                plan.names.given,
                "inputs",
                _missing_input,
                nullable=plan.nullable,
            )
            plan.cache["given"] = found
        row: list[Any] = found.read(source.inputs)
        return row

    def entity_row(self, source: router_service_pb2.PredictRequest, plan: Plan) -> Sequence[Any]:
        """Return the entity keys of a request.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        found = plan.cache.get("entities")
        if found is None:
            fields = plan.version.key_columns
            # A null key is an entity that nobody knows: its features are MISSING.
            found = RowReader(
                fields,
                plan.names.entities,
                "entities",
                values.key_missing,
                nullable=frozenset(each.name for each in fields),
                max_text_bytes=values.MAX_KEY_BYTES,
            )
            plan.cache["entities"] = found
        if plan.feature_set is None:
            # Nothing could be looked up by it.
            name = min(source.entities)
            raise values.unknown(f'entities["{name[:100]}"]', name)
        row: list[Any] = found.read(source.entities)
        return row

    def requested_row(self, source: router_service_pb2.PredictRequest, plan: Plan) -> Sequence[Any]:
        """Return the request fields of a request.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        found = plan.cache.get("requested")
        if found is None:
            fields = plan.version.request_fields
            # What the set declares counts, not the tensor that holds it: an integer is never missing
            # by itself, though a model of floats would make NaN of it.
            floats = {each.name for each in fields if each.dtype in values.FLOATS}
            found = RowReader(
                fields,
                plan.names.requested,
                "inputs",
                _missing_input,
                nullable=plan.version.substituted_inputs | floats,
            )
            plan.cache["requested"] = found
        row: list[Any] = found.read(source.inputs)
        return row

    def encode(self, columns: Columns) -> column_pb2.ColumnBatch:
        """Return columns as the transport wants them."""
        return columns_proto.to_proto(columns)


def _missing_input(name: str) -> errors.InvalidArgumentError:
    return values.missing(f'inputs["{name}"]')


def python_value(value: value_pb2.Value) -> Any:
    """Return a value of the contract as Python has it; one without a kind is None."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "timestamp_value":
        return values.Timestamp(value.timestamp_value)
    return getattr(value, kind)
