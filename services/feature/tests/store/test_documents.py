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
TAGS = st.dictionaries(NAMES, NAMES, max_size=2)
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
        tags=TAGS,
        finite=st.booleans(),
    )
)
DEFINITIONS = st.one_of(
    st.builds(
        definitions.Entity,
        name=NAMES,
        keys=st.lists(SPECS, max_size=3).map(tuple),
        owner=NAMES,
        tags=TAGS,
    ),
    st.builds(
        definitions.FeatureView,
        name=NAMES,
        entity=NAMES,
        fields=st.lists(FIELDS, max_size=4).map(tuple),
        ttl=st.integers(0, (1 << 63) - 1),
        boundary=st.sampled_from(definitions.Boundary),
        keys=st.lists(SPECS, max_size=3).map(tuple),
        create_time=INT64,
        tags=TAGS,
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
        owner=NAMES,
        tags=TAGS,
        transformations=st.lists(
            st.builds(
                definitions.Transformation,
                name=NAMES,
                function=NAMES,
                inputs=TAGS,
                dtype=st.none() | st.sampled_from(list(DataType)),
                source_hash=NAMES,
                source=NAMES,
            ),
            max_size=2,
        ).map(tuple),
    ),
)


@given(DEFINITIONS)
def test_documents_round_trip(definition: definitions.Definition) -> None:
    """A definition comes back from its stored text exactly, numbers and all."""
    text = json.dumps(documents.to_document(definition))

    found = documents.from_document(documents.kind_of(definition), json.loads(text))

    assert repr(found) == repr(definition)


def test_documents_of_earlier_releases_are_read() -> None:
    """A definition that was stored before tags, owners and transformations existed has none."""
    stored = definitions.FeatureSet("flights", (definitions.FeatureReference("v", "f"),))
    for definition in (
        stored,
        definitions.Entity("e", ()),
        definitions.FeatureView("v", "e", (definitions.Field("f", DataType.INT64),)),
    ):
        document = documents.to_document(definition)
        for name in ("tags", "transformations"):
            document.pop(name, None)
        if not isinstance(definition, definitions.FeatureView):
            del document["owner"]
        for field in document.get("fields", ()):
            del field["tags"]

        assert documents.from_document(documents.kind_of(definition), document) == definition
