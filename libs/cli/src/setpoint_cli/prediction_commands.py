"""Asking and explaining: ``predict`` and ``explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from setpoint.monitoring.v1 import monitoring_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_cli import explanation
from setpoint_cli.session import (
    DEFAULT_STACK,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    read_time,
    read_values,
    session,
)


def predict(
    route: Annotated[str, typer.Argument(help="Name of the route.")],
    entity: Annotated[
        list[str] | None, typer.Option("--entity", "-e", help="An entity key, name=value.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="An input, name=value.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="When the question is asked; now by default.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Assignment key; the entity keys by default.")
    ] = None,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Ask for one prediction.

    Example: setpoint predict flight_late -e carrier=UA -e origin=EWR -e tailnum=N14228
    -i carrier=UA -i origin=EWR -i destination=IAH -i scheduled_hour=17 -i weekday=5 -i distance=1400
    """
    with session(stack) as client:
        answer = client.predict(
            route,
            entities=read_values("--entity", entity),
            inputs=read_values("--input", value),
            event_time=read_time("--time", time) or None,
            assignment_key=key,
            timeout=TIMEOUT_SECONDS,
        )
    for name, output in answer.outputs.items():
        console.print(f"{name} = [bold]{output}[/]")
    why = answer.assignment
    console.print(f"{why.model} version {why.version}, route revision {why.route_revision}")
    for degradation in answer.degradations:
        console.print(f"[yellow]degraded[/] {degradation.kind} {degradation.subject}")
    console.print(f"explain it with: setpoint explain {answer.prediction_id}", highlight=False)


def explain(
    prediction_id: Annotated[str, typer.Argument(help="Id that the answer carried.")],
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Tell the whole story of one prediction: inputs, version, why, trace, outcome.

    Example: setpoint explain 019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071
    """
    with session(stack) as client:
        found = client.stubs.monitoring.GetPrediction(
            monitoring_service_pb2.GetPredictionRequest(prediction_id=prediction_id),
            timeout=TIMEOUT_SECONDS,
        )
        route = client.stubs.router.GetRoute(
            router_service_pb2.GetRouteRequest(
                name=found.prediction.route, revision=found.prediction.route_revision
            ),
            timeout=TIMEOUT_SECONDS,
        ).route
    explanation.show(found.prediction, route, console)
