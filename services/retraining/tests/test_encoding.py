import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model

from setpoint_columns import Columns, DataType
from setpoint_retraining.training import encoding, fit

TEXTS = ["a", "grün", "日本", " a ", "0"]


def fitted(code: encoding.Encoding) -> tuple[linear_model.LogisticRegression, bytes]:
    """Return a classifier of already encoded columns, which may not be missing, and its model."""
    random = np.random.default_rng(0)
    features = random.normal(size=(60, code.width)).astype(np.float32)
    label = (features.sum(axis=1) > 0).astype(int)
    estimator = linear_model.LogisticRegression().fit(features, label)
    return estimator, encoding.to_onnx(estimator, code)


def encoder_of(
    code: encoding.Encoding, table: Columns
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return what the encoding's own part of the ONNX model makes of a table."""
    import onnx
    import onnxruntime

    part = encoding._encoder(code, 9)
    onnx.checker.check_model(part)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {}
    if code.numbers:
        feeds[encoding.NUMBERS] = np.column_stack(
            [table[name].floats().astype(np.float32) for name in code.numbers]
        )
    if code.texts:
        values = [[text or "" for text in table[name].to_list()] for name in code.texts]
        feeds[encoding.TEXTS] = np.array(values, dtype=object).T.reshape(table.rows, len(values))
    return np.asarray(session.run(None, feeds)[0])


@given(
    trained=st.lists(st.one_of(st.none(), st.sampled_from(TEXTS)), max_size=8),
    asked=st.lists(
        st.tuples(
            st.one_of(st.none(), st.sampled_from([*TEXTS, "unknown", ""])),
            st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
        ),
        min_size=1,
        max_size=8,
    ),
)
@settings(max_examples=25, deadline=None)
def test_encoder_equals_matrix(
    trained: list[str | None], asked: list[tuple[str | None, float | None]]
) -> None:
    """ONNX gives every text, known, unknown or null, the number that Python gives it."""
    code = encoding.Encoding.learn(["n"], {"t": trained})
    table = Columns.from_dict(
        {
            "n": (DataType.FLOAT32, [number for _, number in asked]),
            "t": (DataType.STRING, [text for text, _ in asked]),
        }
    )
    matrix = code.matrix([table["n"].floats()], [table["t"].to_list()], table.rows)
    np.testing.assert_array_equal(encoder_of(code, table), matrix)


@pytest.mark.parametrize(
    ("numbers", "texts"), [(("n", "m"), ()), ((), ("t", "u")), (("n",), ("t",))]
)
def test_to_onnx_equals_estimator(numbers: tuple[str, ...], texts: tuple[str, ...]) -> None:
    """The whole model gives the estimator's probabilities; without numbers or texts that input is gone."""
    code = encoding.Encoding.learn(numbers, dict.fromkeys(texts, TEXTS))
    estimator, model = fitted(code)
    table = Columns.from_dict(
        {
            **{name: (DataType.FLOAT64, [0.5, -2.0, 3.25]) for name in numbers},
            **{name: (DataType.STRING, ["日本", "a", "grün"]) for name in texts},
        }
    )
    matrix = code.matrix(
        [table[name].floats() for name in numbers], [table[name].to_list() for name in texts], 3
    )
    expected = estimator.predict_proba(matrix)[:, 1]
    np.testing.assert_allclose(fit.run_onnx(model, code, table), expected, atol=1e-6)


def test_matrix_marks_unknown_as_missing() -> None:
    """Null, the empty text and what training never saw are all missing."""
    code = encoding.Encoding.learn([], {"t": ["b", "a", None, "", "b"]})
    assert code.levels == (("a", "b"),)
    matrix = code.matrix([], [["a", "b", "c", None, ""]], 5)
    np.testing.assert_array_equal(matrix[:, 0], [0, 1, np.nan, np.nan, np.nan])
