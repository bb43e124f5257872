"""The contracts to compare with are found in every kind of clone."""

import subprocess
from pathlib import Path

import pytest

import contracts

FIRST = 'syntax = "proto3";\n'
SECOND = 'syntax = "proto3";\npackage second;\n'


class Repository:
    """A repository with one contract, and commits made as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch", "main")
        (folder / "buf.yaml").write_text("version: v2\n")

    def git(self, *arguments: str) -> str:
        """Runs git as somebody, whatever the machine's own settings."""
        identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@localhost")
        command = ["git", *identity, *arguments]
        finished = subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        )
        return finished.stdout.strip()

    def write(self, contract: str) -> None:
        """Changes the contract in the working tree."""
        path = self.folder / "proto" / "a" / "a.proto"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contract)

    def commit(self, contract: str | None = None) -> str:
        """Commits the contract, or a change of something else, and returns the commit."""
        if contract is None:
            note = self.folder / "note.txt"
            note.write_text(f"{note.read_text() if note.exists() else ''}more\n")
        else:
            self.write(contract)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    return Repository(folder)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def previous(folder: Path, scratch: Path) -> tuple[str, str] | None:
    """Returns the commit that is compared with, and its contract."""
    found = contracts.extract_previous(folder, scratch)
    if found is None:
        return None
    commit, target = found
    assert (target / "buf.yaml").is_file()
    return commit, (target / "proto" / "a" / "a.proto").read_text()


def test_first_commit_has_nothing_to_break(repository: Repository, scratch: Path) -> None:
    """Proves that a repository before and at its first contract passes."""
    repository.write(FIRST)
    assert previous(repository.folder, scratch) is None
    repository.commit(FIRST)
    assert previous(repository.folder, scratch) is None


def test_edited_tree_is_compared_with_the_last_commit(
    repository: Repository, scratch: Path
) -> None:
    """Proves that an edit is compared with main's newest contract."""
    commit = repository.commit(FIRST)
    repository.write(SECOND)
    assert previous(repository.folder, scratch) == (commit, FIRST)


def test_committed_change_is_compared_with_the_one_before(
    repository: Repository, scratch: Path
) -> None:
    """Proves that commits of other files in between do not hide a change."""
    commit = repository.commit(FIRST)
    repository.commit(SECOND)
    repository.commit()
    assert previous(repository.folder, scratch) == (commit, FIRST)


def test_branch_is_compared_with_main(repository: Repository, scratch: Path) -> None:
    """Proves that a branch of several commits answers for all of them."""
    commit = repository.commit(FIRST)
    repository.git("switch", "--quiet", "--create", "topic")
    repository.commit(SECOND)
    repository.commit(SECOND + "message A {}\n")
    assert previous(repository.folder, scratch) == (commit, FIRST)


def test_detached_clone_knows_main(repository: Repository, scratch: Path, tmp_path: Path) -> None:
    """Proves that a checkout without local branches compares with the remote's main."""
    commit = repository.commit(FIRST)
    repository.commit(SECOND)
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.folder), str(clone))
    for arguments in (("checkout", "--quiet", "--detach"), ("branch", "--quiet", "-D", "main")):
        subprocess.run(["git", *arguments], cwd=clone, check=True)
    assert previous(clone, scratch) == (commit, FIRST)


def test_shallow_clone_without_other_contracts_passes(
    repository: Repository, scratch: Path, tmp_path: Path
) -> None:
    """Proves that missing history is no failure."""
    repository.commit(FIRST)
    repository.commit(SECOND)
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", "--depth", "1", repository.folder.as_uri(), str(clone))
    assert previous(clone, scratch) is None
