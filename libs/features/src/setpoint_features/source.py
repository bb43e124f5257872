"""Which code a function is: a hash that changes when its results may, and does not otherwise.

The hash covers the function and, of its own package, everything that it names: functions, classes,
modules and constants, however deep, what decorators and closures hold included. It goes by the syntax tree, so comments, docstrings, annotations,
line breaks and where the code lies do not count. Packages of others count by their names: their versions
are the lock's business.
"""

import ast
import builtins
import collections
import hashlib
import importlib
import importlib.util
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from setpoint_runtime import errors

LENGTH: Final = 16
"""Hexadecimal digits kept: 64 bits, as in versions."""

_CONSTANTS: Final = (bool, int, float, complex, str, bytes, type(None), type(...))
_IGNORED: Final = frozenset({"annotation", "returns", "type_comment", "ctx", "kind", "type_params"})
_DECLARATION: Final = "setpoint_features.declaration"
_MADE_OF_PYTHON: Final = " (vectorized)"
"""How numpy ends the names of universal functions that call a Python function."""
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
        if inspect.isfunction(defined) and not self._is_own(defined.__globals__["__name__"]):
            yield from self._wrapper(defined)
            return
        scope = _scope(defined)
        tree = _tree(defined, scope)
        self._refuse_hidden_imports(tree, defined)
        yield "".join(_canonical(tree.body[0], is_outermost=True))
        for name in sorted(_names(tree)):
            if name in scope:
                yield from self._global(name, scope[name], defined)
            elif not hasattr(builtins, name):
                # A local, or nothing at all, which running the function will tell.
                continue
        for path in sorted(_paths(tree)):
            yield from self._submodules(path, scope)

    def _is_own(self, module: str | None) -> bool:
        return module is not None and _root(module) == self._root

    def _wrapper(self, function: types.FunctionType) -> Iterator[str]:
        """Yields what another package's function holds that was made here, such as by its decorator."""
        yield f"{function.__globals__['__name__']}:{function.__code__.co_qualname}"
        for name, value in _held(function).items():
            followed = isinstance(value, _CONSTANTS) or callable(value)
            # What else it holds was made by an expression that counts, or by that package.
            yield from self._global(name, value, function) if followed and _is_told(value) else ()

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
            if not self._is_own(value.__module__):
                yield f"{name} is {value.__module__}:{value.__qualname__}"
                if inspect.isfunction(value) and id(value) not in self._seen and _held(value):
                    self._seen.add(id(value))
                    yield from self._wrapper(value)
            elif id(value) not in self._seen:
                yield f"{name} is"
                yield from self.parts(value)
            else:
                yield f"{name} is {value.__name__}"
        elif not self._is_own(getattr(value, "__module__", None)) and _is_built_in(value):
            yield f"{name} is {getattr(value, '__module__', '')}:{value.__name__}"
        elif inspect.isfunction(wrapped := getattr(value, "__wrapped__", None)):
            # functools.cache and the like, which are no functions themselves.
            yield f"{name} is {type(value).__module__}:{type(value).__qualname__} of"
            yield from self._global(name, wrapped, reader)
        elif inspect.ismethod(value) and inspect.isclass(value.__self__):
            yield f"{name} is {value.__name__} of"
            yield from self._global(name, value.__self__, reader)
        else:
            yield f"{name} = {self._constant(name, value, reader)}"

    def _module(self, name: str, module: types.ModuleType) -> Iterator[str]:
        if not self._is_own(module.__name__):
            yield f"{name} is {module.__name__}"
        elif id(module) not in self._seen:
            self._seen.add(id(module))
            # Which part of it is meant cannot be told, so all of it counts, and all that it imports.
            tree = ast.parse(_module_text(module))
            yield f"{name} is"
            yield "".join(_canonical(tree, is_outermost=False))
            for imported in sorted(_imported(tree, module)):
                if self._is_own(imported):
                    yield from self._module(imported, _imported_module(imported))

    def _submodules(self, path: tuple[str, ...], scope: Mapping[str, Any]) -> Iterator[str]:
        """Yields the modules on the way of a name with dots, such as `package.module.function`."""
        value = scope.get(path[0])
        for name in path[1:]:
            if not isinstance(value, types.ModuleType) or not self._is_own(value.__name__):
                return
            value = getattr(value, name, None)
            if isinstance(value, types.ModuleType):
                yield from self._module(name, value)

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


def _scope(defined: _Defined | Callable[..., Any]) -> Mapping[str, Any]:
    if inspect.isfunction(defined):
        return collections.ChainMap(_held(defined), defined.__globals__)
    module = inspect.getmodule(defined)
    return {} if module is None else vars(module)


def _held(function: types.FunctionType) -> dict[str, Any]:
    """Returns what a function holds of the functions around it."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            # Not set yet: what it will be is nobody's to know.
            continue
    return found


def _is_told(value: Any) -> bool:
    """Tells whether something is a constant, or code whose source or name can be told."""
    if isinstance(value, _CONSTANTS) or inspect.isfunction(value) or inspect.isclass(value):
        return True
    return inspect.isfunction(getattr(value, "__wrapped__", None)) or _is_built_in(value)


def _is_built_in(value: Any) -> bool:
    """Tells whether something is code of another package that is found there by its name."""
    name = getattr(value, "__name__", None)
    if not callable(value) or not isinstance(name, str):
        return False
    if isinstance(value, np.ufunc):
        return not name.endswith(_MADE_OF_PYTHON)
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in getattr(value, "__qualname__", name).split("."):
        found = getattr(found, part, None)
    return found is value or (found is not None and found == value)


def _tree(defined: _Defined | Callable[..., Any], scope: Mapping[str, Any]) -> ast.Module:
    """Returns the code of a function or class, but for what declares it to be a transformation."""
    # Of a function that stands around another one its own code, not the other's.
    code = defined.__code__ if inspect.isfunction(defined) else defined
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        name = getattr(defined, "__qualname__", repr(defined))
        rule = "must have its source in a file, where it stands by itself"
        raise errors.invalid("function", name, rule) from None
    first = tree.body[0]
    if isinstance(first, ast.FunctionDef):
        first.decorator_list = [
            each for each in first.decorator_list if not _is_declaration(each, scope)
        ]
    return tree


def _is_declaration(decorator: ast.expr, scope: Mapping[str, Any]) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    path = _path(called)
    if path is None:
        return False
    value = scope.get(path[0])
    for name in path[1:]:
        value = getattr(value, name, None)
    return getattr(value, "__module__", None) == _DECLARATION


def _path(node: ast.AST) -> tuple[str, ...] | None:
    """Returns the parts of a name with dots, None when it is something else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _paths(tree: ast.AST) -> set[tuple[str, ...]]:
    found = {_path(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {path for path in found if path is not None}


def _module_text(module: types.ModuleType) -> str:
    file = getattr(module, "__file__", None)
    if file is None:
        # A folder without an __init__.py.
        return ""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        rule = "must be a module of Python with its source"
        raise errors.invalid("module", module.__name__, rule) from None


def _imported(tree: ast.AST, module: types.ModuleType) -> set[str]:
    """Returns the names of all modules that a module imports from, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, module.__package__)
            found.add(base)
            parts = {f"{base}.{each.name}" for each in node.names}
            found |= {part for part in parts if part in sys.modules}
    return found


def _imported_module(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        rule = f"must be importable, since a transformation's code counts by it: {type(error).__name__}"
        raise errors.invalid("module", name, rule) from error


def _names(tree: ast.AST) -> set[str]:
    """Returns the names that code reads, but for those in annotations."""
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
