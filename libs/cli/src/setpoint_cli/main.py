"""The command's entry: each group of commands is a module of its own."""

from __future__ import annotations

import typer

from setpoint_cli import stack_commands

app = typer.Typer(
    name="setpoint",
    help="Keeps machine-learning models true in production.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

app.command("up")(stack_commands.up)
app.command("demo")(stack_commands.demo)
