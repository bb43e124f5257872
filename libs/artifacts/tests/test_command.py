import json
import pickle
import subprocess
import sys
from pathlib import Path

from setpoint_artifacts import onnx_model, testing
from setpoint_artifacts.signature import Signature


def inspected(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "setpoint_artifacts", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_command_shows_signature(tmp_path: Path) -> None:
    """A person sees what a model takes and gives."""
    path = tmp_path / "model.onnx"
    path.write_bytes(testing.linear())
    done = inspected(str(path))
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        "input   X: float[?, 2]",
        "output  score: float[?, 1]",
    ]


def test_command_answers_programs() -> None:
    """A program gets the whole signature."""
    done = inspected("--json", "-", data=testing.linear())
    assert Signature.from_json(json.loads(done.stdout)) == onnx_model.inspect(testing.linear())


def test_command_refuses() -> None:
    """A refusal has its reason and another exit code."""
    done = inspected("--json", "-", data=pickle.dumps([1]))
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"] == "EXECUTABLE_ARTIFACT"
    assert b"pickle" in inspected("-", data=pickle.dumps([1])).stdout
