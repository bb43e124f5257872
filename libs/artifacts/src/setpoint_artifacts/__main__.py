"""Inspects an artifact from the command line: `python -m setpoint_artifacts model.onnx`.

Prints what the model takes and gives, or why it is refused, and exits with 1 then. With `--json` it
does so for programs, which thereby read files of others in a process of their own; `-` reads from
standard input.
"""

import argparse
import json
import pathlib
import sys

from setpoint_artifacts import onnx_model, refusal
from setpoint_artifacts.signature import Signature, Tensor


def main() -> int:
    """Inspect, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="setpoint_artifacts", description="Inspect a model file.")
    parser.add_argument("file", help="path of the artifact, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print for programs")
    arguments = parser.parse_args()
    if arguments.file == "-":
        data = sys.stdin.buffer.read()
    else:
        data = pathlib.Path(arguments.file).read_bytes()
    try:
        found = onnx_model.inspect(data)
    except refusal.RefusedError as error:
        answer = {"reason": error.reason.value, "message": error.message}
        text = f"refused [{error.reason.value}]: {error.message}"
        sys.stdout.write(json.dumps(answer) if arguments.json else text)
        sys.stdout.write("\n")
        return 1
    sys.stdout.write(json.dumps(found.to_json()) if arguments.json else _shown(found))
    sys.stdout.write("\n")
    return 0


def _shown(found: Signature) -> str:
    lines = [f"input   {_line(tensor)}" for tensor in found.inputs]
    lines += [f"output  {_line(tensor)}" for tensor in found.outputs]
    return "\n".join(lines)


def _line(tensor: Tensor) -> str:
    shape = "" if tensor.shape is None else str(["?" if n is None else n for n in tensor.shape])
    return f"{tensor.name}: {tensor.element}{shape}".replace("'", "")


if __name__ == "__main__":
    sys.exit(main())
