"""Models as they come from scikit-learn, through the wire, against scikit-learn's own answers."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

import setpoint_columns.proto as column_messages
from setpoint_artifacts import onnx_model, signature
from setpoint_artifacts import testing as artifacts
from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference.convert import batches
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.testing import Inference, floats, refused, substitute
from setpoint_runtime import errors
from setpoint_scoring import onnx_engine, packing
from setpoint_scoring.runner import Runner

F32 = DataType.FLOAT32
RANDOM = np.random.default_rng(7)
VALUES = RANDOM.normal(size=(400, 3)).astype(np.float32)
TARGET = (VALUES[:, 0] + VALUES[:, 1] * VALUES[:, 2] > 0).astype(int)
NAMES = ("x0", "x1", "x2")
LABEL = ("label", DataType.INT64, ("label",))
PROBABILITIES = ("probabilities", F32, ("no", "yes"))


def columns_of(values: npt.NDArray[np.float32]) -> Columns:
    return floats({name: values[:, index] for index, name in enumerate(NAMES)})


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=20),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=["boosting", "logistic"],
)
async def test_predict_classifier(inference: Inference, estimator: object) -> None:
    """Labels and probabilities of classifiers are scikit-learn's."""
    fitted = estimator.fit(VALUES, TARGET)  # type: ignore[attr-defined]  # scikit-learn has no types
    data = artifacts.from_sklearn(fitted, [("X*3", "float")])
    inference.registry.add("late", 1, data, [("X", F32, NAMES)], [LABEL, PROBABILITIES])
    got = await inference.predict("late", 1, columns_of(VALUES))
    expected = fitted.predict_proba(VALUES)
    np.testing.assert_allclose(got["yes"].values, expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(got["no"].values, expected[:, 0], atol=1e-5)
    np.testing.assert_array_equal(got["label"].values, fitted.predict(VALUES))


async def test_predict_missing_values(inference: Inference) -> None:
    """Nulls reach gradient boosting as missing values and take the branch it learnt for them."""
    holed = VALUES.copy()
    holed[RANDOM.random(holed.shape) < 0.2] = np.nan
    fitted = HistGradientBoostingClassifier(max_iter=20).fit(holed, TARGET)
    data = artifacts.from_sklearn(fitted, [("X*3", "float")])
    inference.registry.add("late", 1, data, [("X", F32, NAMES)], [PROBABILITIES])
    made = [
        Column.from_numpy(name, holed[:, index].astype(float), mask=np.isnan(holed[:, index]))
        for index, name in enumerate(NAMES)
    ]
    got = await inference.predict("late", 1, Columns(400, made))
    np.testing.assert_allclose(got["yes"].values, fitted.predict_proba(holed)[:, 1], atol=1e-5)


async def test_predict_several_outputs(inference: Inference) -> None:
    """A regression with two targets answers with two columns."""
    targets = np.column_stack([VALUES[:, 0] * 2, VALUES[:, 1] - 1])
    fitted = RandomForestRegressor(10, random_state=0).fit(VALUES, targets)
    # The converter declares one column for any number of targets.
    data = artifacts.with_output_width(artifacts.from_sklearn(fitted, [("X*3", "float")]), 2)
    outputs = [("variable", F32, ("delay", "taxi"))]
    inference.registry.add("two", 1, data, [("X", F32, NAMES)], outputs)
    got = await inference.predict("two", 1, columns_of(VALUES))
    expected = fitted.predict(VALUES)
    np.testing.assert_allclose(got["delay"].values, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(got["taxi"].values, expected[:, 1], atol=1e-5)


async def test_predict_text_inputs(inference: Inference) -> None:
    """Text columns go into tensors of their own, unknown levels included."""
    import pandas as pd

    carriers = RANDOM.choice(["AA", "UA", "Ünï"], 400)
    frame = pd.DataFrame({"carrier": carriers, "distance": VALUES[:, 0]})
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    fitted = make_pipeline(
        ColumnTransformer([("text", encoder, ["carrier"])], remainder="passthrough"),
        LogisticRegression(),
    ).fit(frame, TARGET)
    data = artifacts.from_sklearn(fitted, [("carrier", "string"), ("distance", "float")])
    inputs = [("carrier", DataType.STRING, ("carrier",)), ("distance", F32, ("distance",))]
    inference.registry.add("text", 1, data, inputs, [PROBABILITIES])
    frame.loc[0, "carrier"] = "never seen"
    columns = Columns(
        400,
        [
            Column.from_list("carrier", frame["carrier"].tolist(), DataType.STRING),
            Column.from_numpy("distance", frame["distance"].to_numpy(float)),
        ],
    )
    got = await inference.predict("text", 1, columns)
    np.testing.assert_allclose(got["yes"].values, fitted.predict_proba(frame)[:, 1], atol=1e-5)
    assert (await inference.predict("text", 1, columns.slice(0, 1))).rows == 1


TEXT_LABEL = ("output_label", DataType.STRING, ("label",))
NAMED = np.array(["on time", "late", "cancelled – Ünï"])[(VALUES[:, 0] > 0).astype(int) + TARGET]
CLASSES = ("p_cancelled", "p_late", "p_on_time")


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("labels", ["text", "numbers"])
async def test_predict_class_labels(inference: Inference, labels: str, zipmap: bool) -> None:
    """Labels of several classes, text or numbers, and probabilities, as a tensor or as maps."""
    target = NAMED if labels == "text" else np.unique(NAMED, return_inverse=True)[1] * 10 - 10
    fitted = HistGradientBoostingClassifier(max_iter=5).fit(VALUES, target)
    data = artifacts.from_sklearn(fitted, [("X*3", "float")], zipmap=zipmap)
    label, probabilities = (each.name for each in onnx_model.inspect(data).outputs)
    outputs = [
        (label, DataType.STRING if labels == "text" else DataType.INT64, ("label",)),
        (probabilities, F32, CLASSES),
    ]
    inference.registry.add("classes", 1, data, [("X", F32, NAMES)], outputs)
    got = await inference.predict("classes", 1, columns_of(VALUES))
    assert got["label"].to_list() == fitted.predict(VALUES).tolist()
    expected = fitted.predict_proba(VALUES)
    for index, name in enumerate(CLASSES):
        np.testing.assert_allclose(got[name].values, expected[:, index], atol=1e-5)
    assert (await inference.predict("classes", 1, columns_of(VALUES[:0]))).rows == 0


async def test_load_other_classes(inference: Inference) -> None:
    """Columns for another number of classes than the maps hold are refused at the load."""
    fitted = LogisticRegression().fit(VALUES, NAMED)
    data = artifacts.from_sklearn(fitted, [("X*3", "float")], zipmap=True)
    outputs = [("output_probability", F32, CLASSES[:2])]
    inference.registry.add("classes", 1, data, [("X", F32, NAMES)], outputs)
    error = await refused(inference.load("classes", 1))
    assert error.reason == errors.Reason.SIGNATURE_MISMATCH
    assert "3 columns in the graph and 2 in the manifest" in error.message


@pytest.mark.parametrize(
    ("estimator", "tolerance"),
    [(Ridge(), 1e-5), (GradientBoostingRegressor(n_estimators=20), 1e-5)],
    ids=["ridge", "boosting"],
)
async def test_predict_regression(
    inference: Inference, estimator: object, tolerance: float
) -> None:
    """A regression answers with its value."""
    fitted = estimator.fit(VALUES, VALUES @ [1.0, -2.0, 0.5])  # type: ignore[attr-defined]
    data = artifacts.from_sklearn(fitted, [("X*3", "float")])
    inference.registry.add("delay", 1, data, [("X", F32, NAMES)], [("variable", F32, ("delay",))])
    got = await inference.predict("delay", 1, columns_of(VALUES))
    np.testing.assert_allclose(got["delay"].values, fitted.predict(VALUES), atol=tolerance)


async def test_predict_categories(inference: Inference) -> None:
    """Categories as text and as numbers, each a tensor of its own, with substitutes for null."""
    import pandas as pd

    frame = pd.DataFrame(
        {"carrier": RANDOM.choice(["AA", "UA", "none"], 400), "month": RANDOM.integers(1, 4, 400)}
    )
    encoder = OneHotEncoder(handle_unknown="ignore")
    fitted = make_pipeline(
        ColumnTransformer([("text", encoder, ["carrier"]), ("number", encoder, ["month"])]),
        LogisticRegression(),
    ).fit(frame, TARGET)
    data = artifacts.from_sklearn(fitted, [("carrier", "string"), ("month", "int64")])
    inputs = [
        ("carrier", DataType.STRING, ("carrier",)),
        ("month", DataType.INT64, ("month",)),
    ]
    missing = [substitute("carrier", string_value="none")]
    inference.registry.add("late", 1, data, inputs, [PROBABILITIES], missing=missing)
    texts = [None if each == "none" else each for each in frame["carrier"]]
    columns = Columns(
        400,
        [
            Column.from_list("carrier", texts, DataType.STRING),
            Column.from_numpy("month", frame["month"].to_numpy()),
        ],
    )
    got = await inference.predict("late", 1, columns)
    np.testing.assert_allclose(got["yes"].values, fitted.predict_proba(frame)[:, 1], atol=1e-5)


async def test_predict_missing_as_declared(inference: Inference) -> None:
    """Of three columns one takes NaN, one has a default and one refuses, whatever the batch's size."""
    fitted = HistGradientBoostingClassifier(max_iter=5).fit(VALUES, TARGET)
    data = artifacts.from_sklearn(fitted, [("X*3", "float")])
    missing = [substitute("x1", double_value=0.25), substitute("x2")]
    inference.registry.add("late", 1, data, [("X", F32, NAMES)], [PROBABILITIES], missing=missing)
    for rows in (1, 300):
        holed = VALUES[:rows].copy()
        holed[0, :2] = np.nan
        filled = holed.copy()
        filled[0, 1] = 0.25
        got = await inference.predict("late", 1, columns_of(holed))
        np.testing.assert_allclose(got["yes"].values, fitted.predict_proba(filled)[:, 1], atol=1e-5)
        holed[rows - 1, 2] = np.nan
        error = await refused(inference.predict("late", 1, columns_of(holed)))
        assert error.reason == errors.Reason.NULL_REFUSED
        assert error.violations[0].field == f"inputs.x2[{rows - 1}]"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([None, 2, 3], "has the shape [rows, 2, 3] in the graph, not [rows, 2]"),
        ([], "has the shape [] in the graph"),
        ([4, 2], "fixed number of rows (4)"),
    ],
)
async def test_load_other_rank(inference: Inference, shape: list[int | None], said: str) -> None:
    """Tensors that are no table of rows are refused at the load, by name and shape."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["Y"])],
        "ranks",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, shape)],
    )
    specs = [("image", F32, ("a", "b"))]
    data = artifacts.serialised(graph)
    inference.registry.add("ranks", 1, data, specs, [("Y", F32, ("c", "d"))])
    error = await refused(inference.load("ranks", 1))
    assert error.reason == errors.Reason.SIGNATURE_MISMATCH
    assert said in error.message


SPEC = TensorSpec("X", F32, NAMES, (Missing("x1", -1.0),))
OUTPUTS = (
    TensorSpec("label", DataType.INT64, ("label",)),
    TensorSpec("probabilities", F32, ("n", "y")),
)
CELL = st.none() | st.floats(-1e3, 1e3, width=32) | st.just(float("nan"))


@pytest.fixture(scope="module")
def forest() -> tuple[HistGradientBoostingClassifier, Runner]:
    """A classifier with missing values, as scikit-learn and as onnxruntime have it."""
    holed = VALUES.copy()
    holed[RANDOM.random(holed.shape) < 0.2] = np.nan
    fitted = HistGradientBoostingClassifier(max_iter=10).fit(holed, TARGET)
    data = artifacts.from_sklearn(fitted, [("X*3", "float")])
    found = onnx_model.inspect(data)
    signature.check(found, [SPEC], OUTPUTS)
    return fitted, onnx_engine.OnnxEngine().open(data, found, [each.name for each in OUTPUTS])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_predict_any_rows(
    forest: tuple[HistGradientBoostingClassifier, Runner],
    rows: list[tuple[float | None, ...]],
) -> None:
    """Whatever the values, nulls and NaN: the answer is scikit-learn's on the rows as declared."""
    fitted, runner = forest
    table = list(zip(*rows, strict=True))
    columns = Columns(
        len(rows),
        [
            Column.from_list(name, list(values), DataType.FLOAT64)
            for name, values in zip(NAMES, table, strict=True)
        ],
    )
    manifest = Manifest(VersionKey("m", 1), "", 0, (SPEC,), OUTPUTS)
    feeds = batches.pack(column_messages.to_proto(columns), manifest)
    label, _, yes = packing.unpack(runner.run(feeds), OUTPUTS, len(rows))
    matrix = np.array(rows, float)
    matrix[np.isnan(matrix[:, 1]), 1] = -1.0
    expected = fitted.predict_proba(matrix.astype(np.float32))
    np.testing.assert_allclose(yes.values, expected[:, 1], atol=1e-5)
    clear = np.abs(expected[:, 1] - 0.5) > 1e-5
    np.testing.assert_array_equal(label.values[clear], fitted.predict(matrix)[clear])
