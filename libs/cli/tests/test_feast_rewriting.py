import ast
import re

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from setpoint_cli.feast import rewriting

ROWS = pd.DataFrame({"a": [1.5, -2.0, 0.25], "b": [3.0, 4.0, -5.0], "a b": [1, 2, 3]})


def function(*lines: str, decorator: str = "") -> str:
    return "\n".join([decorator, "def computed(inputs):", *(f"    {line}" for line in lines)])


def rewritten(source: str, output: str = "x") -> rewriting.Rewritten:
    return rewriting.rewrite(source, [output])[output]


def evaluate(made: rewriting.Rewritten) -> np.ndarray:
    """Computes what was rewritten over columns."""
    columns = {name: ROWS[column].to_numpy() for name, column in made.parameters.items()}
    return np.asarray(eval(made.expression, {"np": np}, columns))  # noqa: S307  # Our own text.


def test_rewrite_of_a_frame_function() -> None:
    """What is assigned to columns of a new frame becomes an expression for each, decorators and all."""
    source = function(
        '"""Says what it does."""',
        "df = pd.DataFrame()",
        'df["x"] = inputs["a"] + inputs["b"]',
        'df["y"] = (inputs["a"] * 2).astype(float)',
        "return df",
        decorator="@on_demand_feature_view(sources=[1], schema=[])",
    )
    assert rewriting.rewrite(source, ["x", "y"]) == {
        "x": rewriting.Rewritten("a + b", {"a": "a", "b": "b"}),
        "y": rewriting.Rewritten("(a * 2).astype('float64')", {"a": "a"}),
    }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['return {"x": inputs["a"] - 1}'], "a - 1"),
        (['return pd.DataFrame({"x": -inputs["a"]})'], "-a"),
        (['half = inputs["a"] / 2', 'out = {"x": half * half}', "return out"], "a / 2 * (a / 2)"),
        (
            [
                "df = pd.DataFrame()",
                'df["z"] = inputs["a"] > 1',
                'df["x"] = df["z"] | (inputs["b"] < 0)',
                "return df",
            ],
            "(a > 1) | (b < 0)",
        ),
        (['return {"x": np.log1p(inputs["a"].abs())}'], "np.log1p(np.abs(a))"),
        (['return {"x": inputs["a"].clip(0, 1)}'], "np.clip(a, 0, 1)"),
        (
            ['return {"x": numpy.where(inputs["a"] > 0, inputs["a"], 0.5)}'],
            "np.where(a > 0, a, 0.5)",
        ),
        (['return {"x": [a * b for a, b in zip(inputs["a"], inputs["b"])]}'], "a * b"),
        (['return {"x": [value + 1 for value in inputs["a"]]}'], "a + 1"),
        (['return {"x": inputs["a b"] + inputs["a"]}'], "a_b + a"),
    ],
)
def test_rewrite_of_plain_functions(lines: list[str], expected: str) -> None:
    """Names, earlier columns, methods and loops over rows are put in their place."""
    assert rewritten(function(*lines)).expression == expected


def test_rewrite_names_parameters_apart() -> None:
    """Columns whose names are no Python, or are equal in Python, get parameters of their own."""
    made = rewritten(
        function('return {"x": inputs["a b"] + inputs["a.b"] + inputs["if"] + inputs["1"]}')
    )
    assert made.expression == "a_b + a_b_2 + _if + _1"
    assert made.parameters == {"a_b": "a b", "a_b_2": "a.b", "_if": "if", "_1": "1"}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (function('return {"x": inputs["a"].fillna(0)}'), "fillna"),
        (function('return {"x": inputs["a"].rolling(3).mean()}'), "rolling"),
        (function('return {"x": inputs["a"].mean()}'), "mean"),
        (function('return {"x": np.cumsum(inputs["a"])}'), "cumsum"),
        (function('return {"x": inputs["a"] // inputs["b"]}'), "//"),
        (function('return {"x": model.predict(inputs)}'), "model.predict"),
        (function('return {"x": other["a"]}'), "other"),
        (function('return {"x": [a for a in inputs["a"] if a]}'), "if a"),
        (function('return {"x": [a for b in inputs["a"] for a in b]}'), "for b in"),
        (function("import requests", 'return {"x": inputs["a"]}'), "import requests"),
        (function('inputs["x"] = inputs["a"]', "return inputs"), "inputs['x']"),
        (function("for each in inputs:", "    pass", 'return {"x": inputs["a"]}'), "for each"),
        (function('return {"y": inputs["a"]}'), "'x'"),
        (function('return {"x": 1}'), "the same for all rows"),
        (function("pass"), "pass"),
        (function("df = pd.DataFrame()"), "returns nothing"),
        ("computed = lambda inputs: inputs", "not that of a function"),
        ("def computed(inputs, more): return {}", "more than its inputs"),
        ("def computed(inputs: return", "cannot be read"),
        ("", "not that of a function"),
    ],
)
def test_rewrite_refuses_what_is_not_plain(source: str, told: str) -> None:
    """Whatever is not arithmetic on columns of one row is left to people, and the reason names it."""
    with pytest.raises(rewriting.NotPlainError, match=re.escape(told)):
        rewritten(source)


COLUMN = st.sampled_from(["inputs['a']", "inputs['b']", "inputs['a b']"])
NUMBER = st.sampled_from(["2", "0.5", "3.25"])
EXPRESSION = st.recursive(
    COLUMN,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner | NUMBER).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda text: f"(-{text})"),
        inner.map(lambda text: f"np.abs({text})"),
        inner.map(lambda text: f"({text}).clip(-1, 2)"),
        inner.map(lambda text: f"np.where({text} > 0.5, {text}, 1.0)"),
    ),
    max_leaves=6,
)


@hypothesis.given(EXPRESSION)
def test_rewrite_computes_the_same(expression: str) -> None:
    """Over columns comes out what the function gives over a frame."""
    source = function("df = pd.DataFrame()", f"t = {expression}", "df['x'] = t", "return df")
    scope: dict[str, object] = {"pd": pd, "np": np}
    exec(source, scope)  # noqa: S102  # Our own text.
    with np.errstate(all="ignore"):
        expected = scope["computed"](ROWS)["x"].to_numpy()  # type: ignore[operator]  # A function.
        found = evaluate(rewritten(source))
    np.testing.assert_allclose(found, expected)


def test_rewrite_leaves_only_numpy_and_parameters() -> None:
    """Nothing that a repository names is left in the text: it is parameters, numpy and numbers."""
    made = rewritten(function('return {"x": np.sqrt(inputs["a"] * 2) + inputs["b"]}'))
    names = {each.id for each in ast.walk(ast.parse(made.expression)) if isinstance(each, ast.Name)}
    assert names == {"np", *made.parameters}
