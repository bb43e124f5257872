from typing import Any

import pytest

from setpoint_columns import DataType
from setpoint_features import declaration, library
from setpoint_runtime import errors


@declaration.transformation(DataType.FLOAT64)
def double(value: Any) -> Any:
    return value * 2


def with_default(value: Any = 1) -> Any:
    return value


def with_rest(*values: Any) -> Any:
    return values


def without_parameters() -> Any:
    return None


async def waiting(value: Any) -> Any:
    return value


def test_function_stays_a_plain_function() -> None:
    """The trainer calls it as it is; what it declares stands beside it."""
    made = declaration.of(double)

    assert double(3) == 6
    assert made is not None
    assert made.name == f"{__name__}:double"
    assert made.parameters == ("value",)
    assert "return value * 2" in made.source
    assert declaration.of(with_default) is None


@pytest.mark.parametrize(
    "function",
    [with_default, with_rest, without_parameters, waiting, lambda x: x, int],
    ids=["default", "rest", "no parameters", "coroutine", "lambda", "class"],
)
def test_what_others_could_not_find_or_call_is_refused(function: Any) -> None:
    """A transformation is a function of a module with one plain parameter for each column."""
    with pytest.raises(errors.InvalidArgumentError):
        declaration.transformation(DataType.FLOAT64)(function)


@pytest.mark.parametrize("options", [{"dtype": 99}, {"not_finite": "zero"}])
def test_bad_declaration_is_refused(options: dict[str, Any]) -> None:
    """Type and rule are those that there are."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        declaration.transformation(**{"dtype": DataType.FLOAT64, **options})(double)

    assert caught.value.violations[0].field in options


def test_load_finds_those_that_a_module_defines(tmp_path: Any, monkeypatch: Any) -> None:
    """A package is loaded with all in it; what a module imports is found where it is defined."""
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("from made_up_package.inner import *\n")
    (package / "inner.py").write_text(
        "from setpoint_features import DataType, transformation\n\n\n"
        "@transformation(DataType.INT64)\ndef same(value):\n    return value\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    found = library.load(["made_up_package"])

    assert found.names == ("made_up_package.inner:same",)
    made = found.find("made_up_package.inner:same")
    assert made is not None
    assert made.dtype is DataType.INT64


def test_load_names_the_module_that_cannot_be_imported(tmp_path: Any, monkeypatch: Any) -> None:
    """A service that is told of a module that is not there says so before it serves."""
    (tmp_path / "made_up_broken.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(errors.FailedPreconditionError, match="nothing_of_the_kind") as caught:
        library.load(["made_up_broken"])

    assert caught.value.metadata["module"] == "made_up_broken"
