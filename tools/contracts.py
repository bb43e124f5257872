"""Finds the contracts that the ones in the working tree are compared with."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

# A clone that continuous integration made may lack the local branch, or any branch at all.
REFERENCES = ("refs/heads/main", "refs/remotes/origin/main", "HEAD")


def git(root: Path, *arguments: str) -> bytes:
    """Runs git and returns its output, which is empty when git fails."""
    finished = subprocess.run(["git", *arguments], check=False, capture_output=True, cwd=root)
    return finished.stdout if finished.returncode == 0 else b""


def main_reference(root: Path) -> str | None:
    """Returns the first reference to main that this clone knows."""
    for reference in REFERENCES:
        if git(root, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}"):
            return reference
    return None


def contracts_in_tree(root: Path) -> dict[str, bytes]:
    """Reads the contracts below a folder."""
    proto = root / "proto"
    return {str(path.relative_to(root)): path.read_bytes() for path in proto.rglob("*.proto")}


def extract(root: Path, commit: str, target: Path) -> bool:
    """Unpacks the contracts of a commit; false where the commit has none."""
    archive = git(root, "archive", "--format=zip", commit, "--", "proto")
    if not archive:
        return False
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(target)
    # The rules of today hold for both sides.
    shutil.copy(root / "buf.yaml", target)
    return True


def extract_previous(root: Path, scratch: Path) -> tuple[str, Path] | None:
    """Unpacks the latest contracts on main that differ from the working tree's.

    Args:
        root: the repository.
        scratch: an empty folder that receives them.

    Returns:
        The commit and the folder with its contracts, or None where there is none: before the
        first commit of a contract, and in a clone without history whose contracts are unchanged.
    """
    reference = main_reference(root)
    if reference is None:
        return None
    current = contracts_in_tree(root)
    log = git(root, "log", "--format=%H", reference, "--", "proto").decode().split()
    for commit in log:
        target = scratch / commit
        if extract(root, commit, target) and contracts_in_tree(target) not in ({}, current):
            return commit, target
    return None
