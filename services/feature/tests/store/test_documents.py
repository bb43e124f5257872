import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import DataType
from setpoint_feature.domain import definitions
from setpoint_feature.store import documents

NAMES = st.text(max_size=5)
SPECS = st.builds(
    definitions.FieldSpec, name=NAMES, dtype=st.sampled_from(list(DataType)), description=NAMES
)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
DEFAULTS: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.BOOL: st.booleans(),
    DataType.INT64: INT64,
    DataType.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
    DataType.STRING: NAMES,
}
FIELDS = st.sampled_from(list(DEFAULTS)).flatmap(
    lambda dtype: st.builds(
        definitions.Field,
        name=NAMES,
        dtype=st.just(dtype),
        default=st.none() | DEFAULTS[dtype],
        sensitive=st.booleans(),
        description=NAMES,
    )
)
DEFINITIONS = st.one_of(
    st.builds(definitions.Entity, name=NAMES, keys=st.lists(SPECS, max_size=3).map(tuple)),
    st.builds(
        definitions.FeatureView,
        name=NAMES,
        entity=NAMES,
        fields=st.lists(FIELDS, max_size=4).map(tuple),
        ttl=st.integers(0, (1 << 63) - 1),
        boundary=st.sampled_from(definitions.Boundary),
        keys=st.lists(SPECS, max_size=3).map(tuple),
        create_time=INT64,
    ),
    st.builds(
        definitions.FeatureSet,
        name=NAMES,
        features=st.lists(
            st.builds(
                definitions.FeatureReference,
                view=NAMES,
                field=NAMES,
                alias=NAMES,
                key_columns=st.dictionaries(NAMES, NAMES, max_size=2),
                view_version=NAMES,
                dtype=st.none() | st.sampled_from(list(DataType)),
            ),
            max_size=4,
        ).map(tuple),
        request_fields=st.lists(SPECS, max_size=3).map(tuple),
    ),
)


@given(DEFINITIONS)
def test_documents_round_trip(definition: definitions.Definition) -> None:
    """A definition comes back from its stored text exactly, numbers and all."""
    text = json.dumps(documents.to_document(definition))

    found = documents.from_document(documents.kind_of(definition), json.loads(text))

    assert repr(found) == repr(definition)
