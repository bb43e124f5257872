"""Definitions from wherever people keep them: a Python package, files of Python or YAML, a folder of both."""

import contextlib
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from setpoint_features import definitions, library, yaml_files
from setpoint_runtime import errors

_YAML: Final = (".yaml", ".yml")
_KINDS: Final = (
    definitions.Entity,
    definitions.FeatureView,
    definitions.AggregateView,
    definitions.FeatureSet,
)


def load(target: str) -> definitions.Definitions:
    """Returns all definitions of a place.

    Args:
        target: A YAML file; a Python file; a folder, with all YAML and Python files in it; or the dotted name of a
            module or package, with all modules in it. Of Python modules the objects count that have a name
            in them, alone or in a list.

    Raises:
        InvalidArgumentError: Nothing is there, or a file is wrong; names file, line and path.
        FailedPreconditionError: A module cannot be imported; says why.
    """
    path = Path(target)
    if path.is_dir():
        found = list(_folder(path))
    elif path.suffix in _YAML and path.is_file():
        found = yaml_files.read(path)
    elif path.suffix == ".py" and path.is_file():
        found = list(_module_file(path))
    elif path.exists() or "/" in target or not target.replace(".", "").isidentifier():
        rule = "must be a YAML or Python file, a folder of them, or the name of a Python package"
        raise errors.invalid("PATH", target, rule)
    else:
        with _on_path(Path.cwd()):
            found = list(_defined(library.walk(target)))
    if not found:
        raise errors.invalid("PATH", target, "must define an entity, a view or a feature set")
    return definitions.Definitions.of(list({id(each): each for each in found}.values()))


def _folder(folder: Path) -> Iterator[definitions.Definition]:
    files = sorted(path for path in folder.rglob("*") if not _is_hidden(path.relative_to(folder)))
    for path in files:
        if path.suffix in _YAML and path.is_file():
            yield from yaml_files.read(path)
    if (folder / "__init__.py").exists():
        with _on_path(folder.resolve().parent):
            yield from _defined(library.walk(folder.resolve().name))
        return
    for path in files:
        if path.suffix == ".py" and path.name != "__main__.py":
            yield from _module_file(path)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def _module_file(path: Path) -> Iterator[definitions.Definition]:
    """Yields what a file defines, imported by the name that it has in its package."""
    path = path.resolve()
    folder, names = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(names)
    with _on_path(folder):
        modules = list(library.walk(name))
    found = getattr(modules[0], "__file__", None)
    if found is None or Path(found).resolve() != path:
        # Python has one module of a name; another file's definitions would stand for this one's.
        rule = (
            f"must have a name of its own; the module of this name is {found or 'a part of Python'}"
        )
        raise errors.invalid(str(path), name, rule)
    yield from _defined(modules)


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Makes modules of a folder importable, as for a program that is started there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _defined(modules: Iterable[types.ModuleType]) -> Iterator[definitions.Definition]:
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("__"):
                continue
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, _KINDS):
                    yield each
