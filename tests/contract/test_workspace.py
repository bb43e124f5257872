"""Every member has the parts that the house expects, and every tool knows every member."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import workspace

MEMBERS = workspace.members()
SERVICES = [member for member in MEMBERS if member.is_service]
ROOT = workspace.ROOT
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GENERATED = ROOT / "libs" / "protos" / "src"

# Libraries that the core of services may use, but for the modules that convert to and from
# messages, and those that read models, which are messages.
PURE_LIBRARIES = ("artifacts", "columns", "features", "rules", "scoring")
IMPURE_MODULES = {
    "setpoint_artifacts.proto",
    "setpoint_artifacts.onnx_model",
    "setpoint_columns.proto",
    "setpoint_columns.value",
    "setpoint_features.messages",
    "setpoint_rules.proto",
}


def sources(folder: Path) -> Iterator[Path]:
    """Yields the hand-written Python files below a folder."""
    for path in sorted(folder.rglob("*.py")):
        if not path.is_relative_to(GENERATED) and "__pycache__" not in path.parts:
            yield path


def parsed(path: Path) -> ast.Module:
    """Parses a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_member_is_complete(member: workspace.Member) -> None:
    """Proves that a member is typed, tested and described, under the name of its folder."""
    package = member.folder / "src" / member.package
    assert member.name == f"setpoint-{member.folder.name}"
    assert (package / "py.typed").is_file()
    assert (member.folder / "README.md").is_file()
    assert list((member.folder / "tests").rglob("test_*.py")) != []


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_member_takes_the_others_from_the_workspace(member: workspace.Member) -> None:
    """Proves that no member's name is ever asked from a package index."""
    manifest = tomllib.loads((member.folder / "pyproject.toml").read_text(encoding="utf-8"))
    named = {workspace.requirement_name(entry) for entry in member.dependencies}
    declared = manifest.get("tool", {}).get("uv", {}).get("sources", {})
    own = {name for name in named if name.startswith("setpoint-")}
    assert own <= {one.name for one in MEMBERS}
    assert own <= {name for name, source in declared.items() if source == {"workspace": True}}


@pytest.mark.parametrize("member", SERVICES, ids=lambda member: member.name)
def test_service_needs_no_other_service(member: workspace.Member) -> None:
    """Proves that services share contracts alone, also in what they install."""
    others = {one.name for one in SERVICES} - {member.name}
    assert {one.name for one in workspace.closure(member, MEMBERS)} & others == set()


def test_type_checker_knows_every_member() -> None:
    """Proves that mypy resolves each member's package to its source."""
    folders = {Path(entry).parts[1:] for entry in SETTINGS["tool"]["mypy"]["mypy_path"]}
    expected = {(*one.folder.relative_to(ROOT).parts, "src") for one in MEMBERS}
    assert folders == expected | {("tools",)}


def test_import_contracts_know_every_member() -> None:
    """Proves that each member's package is in the graph, and each service in every contract."""
    linter = SETTINGS["tool"]["importlinter"]
    handwritten = {one.package for one in MEMBERS} - {"setpoint"}
    services = {one.package for one in SERVICES}
    contracts = {contract["id"]: contract for contract in linter["contracts"]}
    core = {module.split(".")[0] for module in contracts["pure-core"]["source_modules"]}
    assert set(linter["root_packages"]) == handwritten
    assert set(contracts["layers"]["containers"]) == services
    assert set(contracts["independent-services"]["modules"]) == services
    assert core == services


@pytest.mark.parametrize("member", SERVICES, ids=lambda member: member.name)
def test_import_contracts_know_the_core(member: workspace.Member) -> None:
    """Proves that every module below the outer layers is held to the core's purity."""
    contracts = {one["id"]: one for one in SETTINGS["tool"]["importlinter"]["contracts"]}
    layers = contracts["layers"]["layers"]
    core = {name for row in layers[layers.index("service") :] for name in re.findall(r"\w+", row)}
    package = member.folder / "src" / member.package
    present = {path.stem for path in package.iterdir() if path.stem in core}
    held = set(contracts["pure-core"]["source_modules"])
    assert {f"{member.package}.{name}" for name in present} == {
        module for module in held if module.startswith(f"{member.package}.")
    }


def test_import_contracts_know_the_pure_libraries() -> None:
    """Proves that a new module of a library below the core is pure, or is named here as not."""
    contracts = {one["id"]: one for one in SETTINGS["tool"]["importlinter"]["contracts"]}
    held = set(contracts["pure-libraries"]["source_modules"])
    packages = [ROOT / "libs" / name / "src" / f"setpoint_{name}" for name in PURE_LIBRARIES]
    present = {
        f"{package.name}.{path.stem}"
        for package in packages
        for path in package.glob("*.py")
        if path.stem not in {"__init__", "__main__", "testing"}
    }
    assert "setpoint_runtime" in held
    assert present - IMPURE_MODULES == held - {"setpoint_runtime"}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_servers_and_channels_come_from_one_library(member: workspace.Member) -> None:
    """Proves that deadlines, error mapping and draining cannot be forgotten by a service."""
    makers = {"server", "insecure_channel", "secure_channel"}
    allowed = {"setpoint-rpc", "setpoint-client", "setpoint-protos"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(member.folder / "src")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in makers
        and ast.unparse(node.func.value) in {"grpc", "grpc.aio", "aio"}
    ]
    assert member.name in allowed or found == []


def test_tests_say_what_they_prove() -> None:
    """Proves that each test function opens with the sentence that it proves."""
    folders = [*(member.folder / "tests" for member in MEMBERS), ROOT / "tests"]
    files = [
        path for folder in folders for path in sources(folder) if path.stem.startswith("test_")
    ]
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_files_stay_readable() -> None:
    """Proves that no hand-written module has outgrown a reader's patience."""
    folders = [member.folder / "src" for member in MEMBERS]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in sources(folder)
    }
    assert {name: length for name, length in lengths.items() if length > 800} == {}
