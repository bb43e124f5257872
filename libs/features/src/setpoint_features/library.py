"""The transformations that a process has: those of the modules that it is told of."""

import importlib
import pkgutil
import types
from collections.abc import Iterable, Iterator, Mapping

from setpoint_features import declaration
from setpoint_runtime import errors


class Library:
    """Transformations by name, `module:function`. It never changes."""

    def __init__(self, transformations: Iterable[declaration.Transformation] = ()) -> None:
        """Holds transformations."""
        self._by_name: Mapping[str, declaration.Transformation] = {
            each.name: each for each in transformations
        }

    def find(self, name: str) -> declaration.Transformation | None:
        """Returns a transformation, None where there is none of that name."""
        return self._by_name.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._by_name))


EMPTY = Library()


def load(modules: Iterable[str]) -> Library:
    """Imports modules, packages with all that lies in them, and returns their transformations.

    Raises:
        FailedPreconditionError: TRANSFORMATION_NOT_FOUND, when a module cannot be imported; says why.
        InvalidArgumentError: A transformation reads what its source does not tell.
    """
    found = {}
    for name in modules:
        for module in walk(name):
            for value in vars(module).values():
                made = declaration.of(value)
                # Others that were imported into the module are found where they are defined.
                if made is not None and made.call.__module__ == module.__name__:
                    found[made.name] = made
                    # Now, rather than when the first caller waits.
                    _ = made.source_hash
    return Library(found.values())


def walk(name: str) -> Iterator[types.ModuleType]:
    """Imports a module, and those in it when it is a package.

    Raises:
        FailedPreconditionError: TRANSFORMATION_NOT_FOUND, when one cannot be imported; says why.
    """
    module = _import(name)
    yield module
    for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        if not each.name.endswith(".__main__"):
            yield _import(each.name)


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise errors.FailedPreconditionError(
            errors.Reason.TRANSFORMATION_NOT_FOUND,
            f"module {name!r} cannot be imported: {type(error).__name__}: {error}",
            metadata={"module": name},
        ) from error
