"""Asking and explaining: ``predict`` and ``explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from setpoint.common.v1 import reference_pb2
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
    who = f"version {why.version}"
    if why.versions:
        who = f"versions {', '.join(map(str, why.versions))} together"
    console.print(f"{why.model} {who}, route revision {why.route_revision}")
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


def shadow(
    route: Annotated[str, typer.Argument(help="Name of the route.")],
    version: Annotated[int, typer.Argument(min=1, help="Version that is its shadow.")],
    since: Annotated[str, typer.Option(help="First event time, such as 2013-04-01.")],
    until: Annotated[str, typer.Option(help="End of the range, such as 2013-05-01.")],
    primary: Annotated[
        int, typer.Option(min=0, help="Copies of what this version answered alone; 0: of all.")
    ] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Scores that differ by no more are equal.")
    ] = 0.0,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Compare what a shadow answered with what callers got.

    Example: setpoint shadow flight_late 2 --since 2013-04-01 --until 2013-05-01
    """
    with session(stack) as client:
        served = client.stubs.router.GetRoute(
            router_service_pb2.GetRouteRequest(name=route), timeout=TIMEOUT_SECONDS
        ).route
        found = client.stubs.monitoring.CompareShadow(
            monitoring_service_pb2.CompareShadowRequest(
                route=route,
                shadow=reference_pb2.ModelVersionReference(model=served.model, version=version),
                primary_version=primary,
                range=reference_pb2.TimeRange(
                    start_time=read_time("--since", since), end_time=read_time("--until", until)
                ),
                tolerance=tolerance,
            ),
            timeout=TIMEOUT_SECONDS,
        )
    for heading, text in explanation.shadow_facts(found):
        console.print(f"{heading:<18} {text}", highlight=False)
