"""Which code a function is: a hash that changes when its results may, and does not otherwise.

The hash covers the function and, of its own package, everything that it names: functions, classes,
modules and constants, however deep. It goes by the syntax tree, so comments, docstrings, annotations,
line breaks and where the code lies do not count. Packages of others count by their names: their versions
are the lock's business.
"""

import ast
import builtins
import hashlib
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np

from setpoint_runtime import errors

LENGTH: Final = 16
"""Hexadecimal digits kept: 64 bits, as in versions."""

_CONSTANTS: Final = (bool, int, float, complex, str, bytes, type(None), type(...))
_IGNORED: Final = frozenset(
    {"annotation", "returns", "type_comment", "decorator_list", "ctx", "kind", "type_params"}
)
_Defined = types.FunctionType | type


def text(function: Callable[..., Any]) -> str:
    """Returns the source of a function, its indentation taken away.

    Raises:
        InvalidArgumentError: There is no source: the function was made at run time.
    """
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        name = getattr(function, "__qualname__", repr(function))
        raise errors.invalid("function", name, "must have its source in a file") from None


def fingerprint(function: Callable[..., Any], declared: Iterable[str] = ()) -> str:
    """Returns the hash of a function.

    Args:
        function: A function of a module.
        declared: What else decides on its results.

    Raises:
        InvalidArgumentError: It reads a global whose content no source tells; names it.
    """
    walk = _Walk(_root(function.__module__))
    digest = hashlib.sha256()
    for part in (*declared, *walk.parts(function)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:LENGTH]


def _root(module: str) -> str:
    return module.partition(".")[0]


class _Walk:
    """Goes through everything of one package that a function names, each thing once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen: set[int] = set()

    def parts(self, defined: _Defined | Callable[..., Any]) -> Iterator[str]:
        """Yields the code of a function or class, then that of what it names, by name."""
        self._seen.add(id(defined))
        tree = ast.parse(text(defined))
        self._refuse_hidden_imports(tree, defined)
        yield "".join(_canonical(tree.body[0], is_outermost=True))
        scope = _scope(defined)
        for name in sorted(_names(tree)):
            if name in scope:
                yield from self._global(name, scope[name], defined)
            elif not hasattr(builtins, name):
                # A local, or nothing at all, which running the function will tell.
                continue

    def _refuse_hidden_imports(self, tree: ast.AST, defined: Any) -> None:
        """Refuses imports of the own package inside a function, which could not be followed."""
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [self._root if node.level else node.module or ""]
            for name in names:
                if _root(name) == self._root:
                    rule = "must be imported at the top of the module, where its source is followed"
                    raise errors.invalid(f"{defined.__name__}: import", name, rule)

    def _global(self, name: str, value: Any, reader: object) -> Iterator[str]:
        if isinstance(value, types.ModuleType):
            yield from self._module(name, value)
        elif inspect.isfunction(value) or inspect.isclass(value):
            if _root(value.__module__) != self._root:
                yield f"{name} is {value.__module__}:{value.__qualname__}"
            elif id(value) not in self._seen:
                yield f"{name} is"
                yield from self.parts(value)
            else:
                yield f"{name} is {value.__name__}"
        elif callable(value) and isinstance(getattr(value, "__name__", None), str):
            # numpy's functions and other built-in ones.
            yield f"{name} is {getattr(value, '__module__', '')}:{value.__name__}"
        else:
            yield f"{name} = {self._constant(name, value, reader)}"

    def _module(self, name: str, module: types.ModuleType) -> Iterator[str]:
        if _root(module.__name__) != self._root:
            yield f"{name} is {module.__name__}"
        elif id(module) not in self._seen:
            self._seen.add(id(module))
            # Which part of it is meant cannot be told, so all of it counts.
            yield f"{name} is"
            yield "".join(_canonical(ast.parse(inspect.getsource(module)), is_outermost=False))

    def _constant(self, name: str, value: object, reader: object) -> str:
        if isinstance(value, _CONSTANTS):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, tuple | list):
            held = ", ".join(self._constant(name, each, reader) for each in value)
            return f"{type(value).__name__} ({held})"
        if isinstance(value, frozenset | set):
            held = ", ".join(sorted(self._constant(name, each, reader) for each in value))
            return f"{type(value).__name__} {{{held}}}"
        if isinstance(value, dict):
            pairs = (
                f"{self._constant(name, key, reader)}: {self._constant(name, each, reader)}"
                for key, each in value.items()
            )
            return f"dict {{{', '.join(pairs)}}}"
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            data = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return f"array {value.dtype.str} {value.shape} {data}"
        raise errors.invalid(
            f"{getattr(reader, '__name__', 'function')}: {name}",
            type(value).__name__,
            "must be a function, a module or a constant: what else a transformation reads is no part of its source",
        )


def _scope(defined: _Defined | Callable[..., Any]) -> dict[str, Any]:
    if inspect.isfunction(defined):
        return defined.__globals__
    module = inspect.getmodule(defined)
    return {} if module is None else vars(module)


def _names(tree: ast.AST) -> set[str]:
    """Returns the names that code reads, but for those in decorators and annotations."""
    found = set()
    for field, value in _fields(tree):
        if field == "id" and isinstance(value, str):
            found.add(value)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                found |= _names(each)
    return found


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for field in sorted(node._fields):
        if field not in _IGNORED:
            yield field, getattr(node, field, None)


def _canonical(node: Any, *, is_outermost: bool) -> Iterator[str]:
    """Yields the content of a syntax tree in a form that all versions of Python agree on."""
    if not isinstance(node, ast.AST):
        yield f"{type(node).__name__} {node!r}"
        return
    yield f"({type(node).__name__}"
    for field, value in _fields(node):
        if value is None and not isinstance(node, ast.Constant):
            continue
        if is_outermost and field == "name":
            # A function that is called by another name computes the same.
            continue
        if isinstance(value, list):
            value = _without_docstring(node, field, value)
            if not value:
                continue
            yield f" {field}=["
            for each in value:
                yield from _canonical(each, is_outermost=False)
                yield ","
            yield "]"
        else:
            yield f" {field}="
            yield from _canonical(value, is_outermost=False)
    yield ")"


def _without_docstring(node: ast.AST, field: str, body: list[Any]) -> list[Any]:
    may_have = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if field != "body" or not isinstance(node, may_have) or not body:
        return body
    first = body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_text and isinstance(first.value.value, str) else body
