"""Models as they come from scikit-learn, through the wire, against scikit-learn's own answers."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from setpoint_artifacts import testing as artifacts
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference.testing import Inference, floats

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
