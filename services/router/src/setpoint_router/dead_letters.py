"""Dead letters: looks at records that monitoring refused, and sends them again.

    python -m setpoint_router.dead_letters list
    python -m setpoint_router.dead_letters replay [SEQUENCE ...]

Where they are and where they go is what the router is told (`SETPOINT_ROUTER_SPOOL_DIRECTORY`,
`SETPOINT_ROUTER_MONITORING_ADDRESS`), or what the options say. The router may go on meanwhile. What is
taken now is deleted here; monitoring knows a record that it has had before by its prediction ids.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from setpoint_router import config
from setpoint_router.adapters import peers
from setpoint_router.adapters.spool import folder
from setpoint_rpc import channel
from setpoint_runtime import errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 when a letter was refused again."""
    settings = config.RouterSettings()
    parser = argparse.ArgumentParser(prog="python -m setpoint_router.dead_letters")
    parser.add_argument("command", choices=("list", "replay"))
    parser.add_argument("sequences", nargs="*", type=int, help="which ones; by default all")
    parser.add_argument("--spool-directory", type=Path, default=Path(settings.spool_directory))
    parser.add_argument("--monitoring-address", default=settings.monitoring_address)
    options = parser.parse_args(arguments)
    kept = folder.Folder(options.spool_directory)
    wanted = set(options.sequences)
    letters = [each for each in kept.letters() if not wanted or int(each.stem) in wanted]
    if options.command == "list":
        for each in letters:
            _say(each, f"{each.stat().st_size} bytes", _reason(kept, each))
        return 0
    return asyncio.run(replay(kept, letters, options.monitoring_address))


async def replay(kept: folder.Folder, letters: Sequence[Path], address: str) -> int:
    """Send letters again, one by one; returns 1 when some are refused again.

    Args:
        kept: The spool's folder.
        letters: Which ones.
        address: Where monitoring is.
    """
    status = 0
    async with channel.connect(address, client="router") as to_monitoring:
        client = peers.MonitoringClient(to_monitoring)
        for each in letters:
            try:
                await client.send([each.read_bytes()])
            except errors.SetpointError as error:
                status = 1
                _say(each, "refused again", f"{error.reason.value}: {error.message}")
            else:
                kept.unbury(each)
                _say(each, "taken", "")
    return status


def _reason(kept: folder.Folder, letter: Path) -> str:
    found = kept.reason_of(letter)
    return f"{found.get('reason', '?')}: {found.get('text', 'nothing is known')}"


def _say(letter: Path, what: str, why: str) -> None:
    sys.stdout.write(f"{int(letter.stem)}\t{what}\t{why}".rstrip() + "\n")


if __name__ == "__main__":
    sys.exit(main())
