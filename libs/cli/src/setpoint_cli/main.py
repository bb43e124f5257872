"""The command's entry: each group of commands is a module of its own."""

from __future__ import annotations

import typer

from setpoint_cli import (
    batch_commands,
    definition_commands,
    feast_commands,
    feature_commands,
    inventory_commands,
    leak_commands,
    prediction_commands,
    retraining_commands,
    route_commands,
    skew_commands,
    snapshot_commands,
    stack_commands,
)

app = typer.Typer(
    name="setpoint",
    help="Keeps machine-learning models true in production.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

for command in (
    stack_commands.up,
    stack_commands.demo,
    prediction_commands.predict,
    prediction_commands.explain,
    prediction_commands.shadow,
    inventory_commands.models,
    inventory_commands.drift,
    retraining_commands.retrain,
    retraining_commands.approve,
    batch_commands.batch_predict,
    batch_commands.batches,
):
    app.command()(command)

for feature_command in (
    definition_commands.plan,
    definition_commands.apply,
    definition_commands.history,
    skew_commands.skew,
    leak_commands.leaks,
    feast_commands.import_feast,
):
    # Its name is that of the function, with a hyphen.
    feature_commands.app.command()(feature_command)

feature_commands.app.add_typer(snapshot_commands.app, name="snapshot")
app.add_typer(route_commands.app, name="routes")
app.add_typer(feature_commands.app, name="features")
