"""Runs a stack, or its stores alone, without the `setpoint` command."""

import argparse
import pathlib
import sys

from setpoint_devstack import catalogue, errors, stack, stores, up


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, runs until told to stop, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m setpoint_devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("up", help="PostgreSQL, Valkey and services")
    whole.add_argument("services", nargs="*", help="names of services; all by default")
    whole.add_argument("--restart", action="store_true", help="start a service again when it dies")
    whole.add_argument(
        "--quiet", action="store_true", help="leave the services' logs in their files"
    )
    whole.add_argument(
        "--replicas",
        metavar="SERVICE=NUMBER",
        action="append",
        help="run a service so many times, e.g. inference=2",
    )
    alone = commands.add_parser("stores", help="PostgreSQL and Valkey alone")
    alone.add_argument("--postgres-port", type=int, help="default: 7432, or a free one")
    alone.add_argument("--valkey-port", type=int, help="default: 7479, or a free one")
    for command in (whole, alone):
        command.add_argument("--directory", type=pathlib.Path, default=stack.DEFAULT_FOLDER)
    options = parser.parse_args(arguments)
    if options.command == "stores":
        chosen = stores.StorePorts(options.postgres_port, options.valkey_port)
        return up.run_stores(options.directory, chosen)
    try:
        replicas = catalogue.parse_replicas(options.replicas or ())
    except errors.DevstackError as error:
        parser.error(str(error))
    return up.run(
        options.directory,
        options.services or None,
        replicas=replicas,
        restart=options.restart,
        quiet=options.quiet,
    )


if __name__ == "__main__":
    sys.exit(main())
