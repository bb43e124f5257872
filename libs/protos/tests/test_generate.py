"""The generator replaces what changed, removes what is stale and completes packages."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The generator, which is a program and not part of the distribution."""
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, files: dict[str, str]) -> Path:
    """Writes files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    """Reads every file below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def test_mirror_equals_the_source(generate: ModuleType, tmp_path: Path) -> None:
    """Proves that new, changed and stale files, and emptied folders, end as in the source."""
    source = write(tmp_path / "new", {"a/x_pb2.py": "1", "b/y_pb2.py": "2"})
    target = write(tmp_path / "old", {"a/x_pb2.py": "0", "c/z_pb2.py": "3"})
    generate.mirror(source, target)
    assert read(target) == read(source)
    assert not (target / "c").exists()


def test_mirror_leaves_equal_files_untouched(generate: ModuleType, tmp_path: Path) -> None:
    """Proves that a second run changes no time stamp that a watcher would notice."""
    source = write(tmp_path / "new", {"x_pb2.py": "1"})
    target = write(tmp_path / "old", {"x_pb2.py": "1"})
    before = (target / "x_pb2.py").stat().st_mtime_ns
    generate.mirror(source, target)
    assert (target / "x_pb2.py").stat().st_mtime_ns == before


def test_differences_name_each_file(generate: ModuleType, tmp_path: Path) -> None:
    """Proves that a check names what generating would write, change and remove."""
    fresh = write(tmp_path / "new", {"same.py": "1", "changed.py": "2", "added.py": "3"})
    committed = write(tmp_path / "old", {"same.py": "1", "changed.py": "0", "stale.py": "4"})
    assert generate.differences(fresh, committed) == ["added.py", "changed.py", "stale.py"]
    assert generate.differences(fresh, fresh) == []


def test_complete_packages_types_every_folder(generate: ModuleType, tmp_path: Path) -> None:
    """Proves that folders become typed packages and that empty gRPC modules are dropped."""
    write(
        tmp_path,
        {
            "setpoint/a/v1/a_pb2.py": "",
            "setpoint/a/v1/a_pb2_grpc.py": "import grpc",
            "setpoint/a/v1/a_pb2_grpc.pyi": "import grpc",
        },
    )
    generate.complete_packages(tmp_path)
    markers = {f"{folder}/{name}" for folder in FOLDERS for name in ("__init__.py", "py.typed")}
    assert set(read(tmp_path)) == markers | {"setpoint/a/v1/a_pb2.py"}


FOLDERS = ("setpoint", "setpoint/a", "setpoint/a/v1")


def test_private_packages_get_a_pool_of_their_own(generate: ModuleType, tmp_path: Path) -> None:
    """Proves that only private stubs leave the shared pool, and that other output is noticed."""
    line = "DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(b'')"
    [private] = generate.PRIVATE
    output = write(tmp_path, {f"{private}/x_pb2.py": line, "setpoint/y_pb2.py": line})
    generate.keep_private(output)
    assert read(output) == {
        f"{private}/x_pb2.py": line.replace("Default()", "DescriptorPool()"),
        "setpoint/y_pb2.py": line,
    }
    with pytest.raises(SystemExit, match="not what protoc used to write"):
        generate.keep_private(output)
