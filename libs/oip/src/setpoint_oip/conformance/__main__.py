"""The command line."""

import argparse
import asyncio
from collections import Counter
from pathlib import Path

from setpoint_oip.conformance import subject, suite
from setpoint_rpc import channel


def main() -> None:
    """Try a server, print what was found, and exit with 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m setpoint_oip.conformance",
        description="Try whether a server speaks the Open Inference Protocol, version 2.",
    )
    parser.add_argument("address", help="host:port of its gRPC service")
    parser.add_argument("--model", required=True, help="a model that is ready")
    parser.add_argument("--version", default="", help="its version; by default the server chooses")
    parser.add_argument(
        "--example",
        type=Path,
        metavar="FILE",
        help="a request in the protocol's JSON form that the model answers; by default zeros",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 on a warning too")
    asked = parser.parse_args()
    results = asyncio.run(_tried(asked))
    for result in results:
        print(result)
    counts = Counter(result.verdict for result in results)
    print(", ".join(f"{counts[each]} {each.value}" for each in suite.Verdict if counts[each]))
    raise SystemExit(0 if suite.is_conformant(results, is_strict=asked.strict) else 1)


async def _tried(asked: argparse.Namespace) -> list[suite.Result]:
    example = None if asked.example is None else subject.example_of(asked.example)
    async with channel.connect(asked.address, client="oip-conformance") as opened:
        return await suite.run(subject.Subject(opened, asked.model, asked.version, example))


if __name__ == "__main__":
    main()
