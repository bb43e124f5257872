import importlib.util
import sys
import types
from pathlib import Path

import pytest

from setpoint_features import source
from setpoint_runtime import errors

PLAIN = """
import numpy as np

SCALE = 2.0


def helper(x):
    return x * SCALE


def speed(distance, minutes):
    return helper(distance) / np.log(minutes)
"""
_COUNT = iter(range(1_000_000))


def module(folder: Path, text: str) -> types.ModuleType:
    """Imports a text as a module of its own."""
    name = f"made_up_{next(_COUNT)}"
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def hash_of(folder: Path, text: str, *declared: str) -> str:
    return source.fingerprint(module(folder, text).speed, declared)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def speed(distance, minutes):", "def speed(distance: float, minutes) -> float:"),
        ("    return helper(distance)", '    """Says."""\n    # Why.\n    return helper(distance)'),
        (
            "helper(distance) / np.log(minutes)",
            "(\n        helper(distance) / np.log(minutes)\n    )",
        ),
        ("SCALE = 2.0", "SCALE = 1.0 + 1.0\nOTHER = 7"),
        ("def speed", "\n\ndef velocity(x):\n    return x\n\n\ndef speed"),
    ],
    ids=["annotations", "docstring and comment", "line breaks", "equal constant", "neighbour"],
)
def test_hash_ignores_what_changes_no_result(tmp_path: Path, old: str, new: str) -> None:
    """Comments, docstrings, annotations, form and neighbours do not count."""
    changed = PLAIN.replace(old, new)

    assert changed != PLAIN
    assert hash_of(tmp_path, changed) == hash_of(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("np.log(minutes)", "np.log1p(minutes)"),
        ("return x * SCALE", "return x + SCALE"),
        ("SCALE = 2.0", "SCALE = 2"),
        ("import numpy as np", "import math as np"),
        ("(distance, minutes)", "(minutes, distance)"),
        ("def helper(x):", "def helper(x=1):"),
    ],
    ids=["body", "helper", "constant", "package", "parameters", "default"],
)
def test_hash_tells_what_changes_results(tmp_path: Path, old: str, new: str) -> None:
    """The function, what it calls in its package, and constants count."""
    changed = PLAIN.replace(old, new)

    assert changed != PLAIN
    assert hash_of(tmp_path, changed) != hash_of(tmp_path, PLAIN)


def test_hash_tells_what_is_declared(tmp_path: Path) -> None:
    """Type and null rule are part of what a transformation is."""
    assert hash_of(tmp_path, PLAIN, "FLOAT64") != hash_of(tmp_path, PLAIN, "FLOAT32")


def test_hash_stays_for_good(tmp_path: Path) -> None:
    """The hash of a known text is written down here: another release or Python must not move it."""
    assert hash_of(tmp_path, PLAIN, "FLOAT64") == "aa58d2b2218ae10a"


def test_hash_follows_functions_that_name_each_other(tmp_path: Path) -> None:
    """A circle of calls ends."""
    text = PLAIN.replace("return x * SCALE", "return x if x is None else speed(x, SCALE)")

    assert len(hash_of(tmp_path, text)) == source.LENGTH


def test_hash_covers_arrays_and_collections(tmp_path: Path) -> None:
    """A table of numbers counts by its content."""
    one = PLAIN.replace("SCALE = 2.0", "SCALE = np.array([1.0, {'a': (1, None)}['a'][0]])")
    other = one.replace("[1.0,", "[1.5,")

    assert hash_of(tmp_path, one) != hash_of(tmp_path, other)


def test_hash_refuses_what_no_source_tells(tmp_path: Path) -> None:
    """A loaded thing may change without its source, so it is named and refused."""
    text = PLAIN.replace("SCALE = 2.0", "SCALE = iter([2.0])")

    with pytest.raises(errors.InvalidArgumentError) as caught:
        hash_of(tmp_path, text)

    assert caught.value.violations[0].field == "helper: SCALE"


def test_hash_refuses_hidden_imports_of_its_own_package(tmp_path: Path) -> None:
    """What a function imports in its body is followed nowhere; of other packages the name is enough."""
    made = "def speed(distance, minutes):\n    "
    other = PLAIN.replace(made[:-5], made + "import math", 1)
    relative = PLAIN.replace(made[:-5], made + "from . import helpers", 1)

    assert other != PLAIN
    assert hash_of(tmp_path, other) != hash_of(tmp_path, PLAIN)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        hash_of(tmp_path, relative)
    assert caught.value.violations[0].field == "speed: import"


def test_text_needs_a_file() -> None:
    """A function made at run time has no source to be told by."""
    scope: dict[str, types.FunctionType] = {}
    exec("def made(x):\n    return x", scope)  # noqa: S102  # that is the case in question

    with pytest.raises(errors.InvalidArgumentError):
        source.text(scope["made"])
