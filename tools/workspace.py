"""What the workspace consists of, read from the members' own ``pyproject.toml`` files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.txt"
CODEGEN_LOCK = ROOT / "libs" / "protos" / "codegen.txt"


@dataclass(frozen=True)
class Member:
    """A distribution of the workspace."""

    name: str
    folder: Path
    dependencies: tuple[str, ...]
    optional_dependencies: tuple[str, ...]

    @property
    def package(self) -> str:
        """The package that the distribution installs."""
        return "setpoint" if self.name == "setpoint-protos" else self.name.replace("-", "_")

    @property
    def is_service(self) -> bool:
        """Whether it is run, rather than imported by others."""
        return self.folder.parent.name == "services"


def requirement_name(requirement: str) -> str:
    """Returns the normalised distribution name of a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def members() -> list[Member]:
    """Lists the members, libraries first, each by name."""
    files = [*sorted(ROOT.glob("libs/*/pyproject.toml"))]
    files += sorted(ROOT.glob("services/*/pyproject.toml"))
    return [_read(path) for path in files]


def _read(path: Path) -> Member:
    # Imported late: an interpreter too old to have it lives long enough to be told so by setup.
    import tomllib

    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})
    return Member(
        name=project["name"],
        folder=path.parent,
        dependencies=tuple(project.get("dependencies", ())),
        optional_dependencies=tuple(
            sorted({entry for group in extras.values() for entry in group})
        ),
    )


def closure(member: Member, among: list[Member]) -> list[Member]:
    """Lists a member and every other one that it needs, directly or not."""
    by_name = {one.name: one for one in among}
    needed: dict[str, Member] = {}
    waiting = [member.name]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in by_name:
            continue
        needed[name] = by_name[name]
        waiting.extend(requirement_name(entry) for entry in by_name[name].dependencies)
    return [needed[name] for name in sorted(needed)]


def locked_versions(path: Path = LOCK) -> dict[str, str]:
    """Reads name and version of every locked package."""
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", path.read_text("utf-8"), re.MULTILINE)
    return {requirement_name(name): version for name, version in pinned}
