import importlib.util
import linecache
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


DECORATED = """
import functools

import numpy as np


def scale(factor):
    def outer(function):
        @functools.wraps(function)
        def inner(*columns):
            return function(*columns) * factor

        return inner

    return outer


@scale(2)
def scaled(x):
    return x


@functools.cache
def cached():
    return 2


@np.errstate(all="ignore")
def quiet(x):
    return x * 2


class Fixed:
    factor = 2

    @classmethod
    def by_class(cls, x):
        return x * cls.factor


fixed = Fixed.by_class


def make(factor):
    def made(x):
        return x * factor

    return made


twice = make(2)
"""


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        ("scaled(x)", "@scale(2)", "@scale(3)"),
        ("scaled(x)", "* factor\n\n        return inner", "+ factor\n\n        return inner"),
        ("x * cached()", "    return 2\n", "    return 3\n"),
        ("quiet(x)", "x * 2", "x * 3"),
        ("quiet(x)", '(all="ignore")', '(over="ignore")'),
        ("fixed(x)", "factor = 2", "factor = 3"),
        ("twice(x)", "make(2)", "make(3)"),
    ],
    ids=["argument", "decorator", "cache", "other's", "other's argument", "class", "closure"],
)
@pytest.mark.parametrize("is_direct", [False, True], ids=["named", "around it"])
def test_hash_tells_what_decorators_and_closures_hold(
    tmp_path: Path, call: str, old: str, new: str, is_direct: bool
) -> None:
    """What stands around a function decides on its results as its body does."""
    head = (
        call.partition("(")[0]
        if is_direct and call.startswith(("scaled", "quiet", "twice"))
        else ""
    )
    speed = f"\n\nspeed = {head}\n" if head else f"\n\ndef speed(x):\n    return {call}\n"
    changed = DECORATED.replace(old, new)

    assert changed != DECORATED
    assert hash_of(tmp_path, changed + speed) != hash_of(tmp_path, DECORATED + speed)
    assert hash_of(tmp_path, DECORATED + speed) == hash_of(tmp_path, DECORATED + speed)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("np.vectorize(one)", "vectorize"),
        ("np.frompyfunc(one, 1, 1)", "ufunc"),
        ("Held().go", "method"),
        ("{1: 2}.get", "builtin_function_or_method"),
    ],
)
def test_hash_refuses_callables_that_hide_what_they_call(
    tmp_path: Path, made: str, kind: str
) -> None:
    """A callable whose code or state no source tells is refused by name."""
    text = f"""
import numpy as np

def one(x):
    return x + 1

class Held:
    def go(self, x):
        return x

hidden = {made}

def speed(x):
    return hidden(x)
"""
    with pytest.raises(errors.InvalidArgumentError, match=f"speed: hidden: '{kind}'"):
        hash_of(tmp_path, text)


def test_hash_refuses_code_that_does_not_stand_by_itself(tmp_path: Path) -> None:
    """Of a lambda in the middle of a line the source cannot be told."""
    text = "many = {\n    1: lambda x: x,\n}\none = many[1]\n\ndef speed(x):\n    return one(x)\n"

    with pytest.raises(errors.InvalidArgumentError, match="stands by itself"):
        hash_of(tmp_path, text)


@pytest.mark.parametrize(
    "used",
    [
        "from {0} import near\n\ndef speed(x):\n    return near.scaled(x)\n",
        "import {0}.near\n\ndef speed(x):\n    return {0}.near.scaled(x)\n",
        "import {0}.far\n\ndef speed(x):\n    return x * {0}.far.FACTOR\n",
    ],
    ids=["module", "with dots", "constant with dots"],
)
def test_hash_follows_what_modules_of_its_package_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str
) -> None:
    """A module that is named counts with all that it imports of the package, however deep."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def hash_with(factor: int) -> str:
        name = "made_up_package"
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
        (folder / "used.py").write_text(used.format(name))
        (folder / "near.py").write_text(
            "from .far import FACTOR\n\ndef scaled(x):\n    return x * FACTOR\n"
        )
        (folder / "far.py").write_text(f"FACTOR = {factor}\n")
        linecache.clearcache()
        importlib.invalidate_caches()
        return source.fingerprint(importlib.import_module(f"{name}.used").speed)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    two, three = hash_with(2), hash_with(33)

    assert two != three
    assert hash_with(2) == two
