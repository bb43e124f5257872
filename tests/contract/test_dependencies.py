"""Each member declares everything that it imports, and leaves nothing to what others bring along."""

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

import workspace

MEMBERS = workspace.members()
OWN = {member.package: member.name for member in MEMBERS}
SHARED_NAMESPACES = ("google", "opentelemetry")
"""Folders that several distributions fill."""
ELSEWHERE = {"setpoint_cli/feast/reader.py"}
"""Programs for other environments than ours, with what is there."""


def imported(folder: Path) -> dict[str, Path]:
    """Returns the modules that the files below a folder import, wherever they do, each with a file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        if str(path.relative_to(folder)) in ELSEWHERE:
            continue
        for module in _imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(module, path)
    return found


def _imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module in SHARED_NAMESPACES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@functools.cache
def packages() -> Mapping[str, list[str]]:
    """Returns the distributions that bring each top-level package."""
    return metadata.packages_distributions()


@functools.cache
def brought(module: str) -> frozenset[str]:
    """Returns the distributions that bring a module; first-party ones by their own names."""
    top = module.split(".")[0]
    if top in OWN:
        return frozenset({OWN[top]})
    names = {workspace.requirement_name(name) for name in packages().get(top, ())}
    if top not in SHARED_NAMESPACES:
        return frozenset(names)
    path = module.replace(".", "/")
    return frozenset(
        name
        for name in names
        if any(
            str(file) == f"{path}.py" or str(file).startswith(f"{path}/")
            for file in metadata.distribution(name).files or ()
        )
    )


def declared(member: workspace.Member) -> set[str]:
    """Returns what a member asks for, its extras among it."""
    entries = (*member.dependencies, *member.optional_dependencies)
    return {workspace.requirement_name(entry) for entry in entries} | {member.name}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_member_declares_what_it_imports(member: workspace.Member) -> None:
    """Proves that every import of a member's source is covered by a dependency of its own."""
    asked = declared(member)
    lacking = {
        module: str(path.relative_to(member.folder))
        for module, path in imported(member.folder / "src").items()
        if module.split(".")[0] not in sys.stdlib_module_names and not brought(module) & asked
    }
    assert lacking == {}


def test_modules_of_shared_namespaces_are_told_apart() -> None:
    """Proves that a module is traced to its own distribution where several share a namespace."""
    assert brought("google.protobuf.message") == {"protobuf"}
    assert brought("google.rpc") == {"googleapis-common-protos"}
    assert brought("opentelemetry.trace") == {"opentelemetry-api"}
    assert brought("opentelemetry.sdk.trace") == {"opentelemetry-sdk"}
    assert brought("setpoint.common.v1") == {"setpoint-protos"}
    assert brought("no_such_module") == frozenset()
