"""Logging is configured once for a process, so each test has a process of its own."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_SPAN = "b7ad6b7169203331"


def _run(script: str) -> str:
    """Returns what a script writes to its standard error."""
    head = "import logging, setpoint_telemetry as telemetry\n"
    finished = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout == ""
    return finished.stderr


def _lines(script: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _run(script).splitlines()]


def test_lines_are_json_objects() -> None:
    """A line carries event, level, logger, time, service, version and its own fields."""
    (line,) = _lines("""
        telemetry.setup("router", version="1.2.3")
        telemetry.get_logger("spool").warning("segment full", segment=7, path="/var/spool/ü")
    """)

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "segment full",
        "level": "warning",
        "logger": "spool",
        "service": "router",
        "version": "1.2.3",
        "segment": 7,
        "path": "/var/spool/ü",
    }


def test_standard_loggers_have_same_form() -> None:
    """Lines of libraries, which use the standard library, look like ours."""
    (line,) = _lines("""
        telemetry.setup("router")
        logging.getLogger("library").error("failed %d times", 3)
    """)

    assert (line["event"], line["logger"], line["service"]) == (
        "failed 3 times",
        "library",
        "router",
    )


def test_exceptions_are_one_line() -> None:
    """A traceback stays in the line of its event, where a log store finds it."""
    (line,) = _lines("""
        telemetry.setup("router")
        try:
            raise ValueError("wrong")
        except ValueError:
            telemetry.get_logger("x").exception("caught")
    """)

    assert "Traceback" in line["exception"]
    assert "ValueError: wrong" in line["exception"]


def test_level_hides_lesser_lines_and_can_change() -> None:
    """Lines below the level are not written; a second setup changes the level alone."""
    lines = _lines("""
        telemetry.setup("router", log_level="WARNING")
        log = telemetry.get_logger("x")
        log.info("hidden")
        log.warning("shown")
        telemetry.setup("other", log_level="DEBUG", log_format="console")
        log.debug("now shown")
    """)

    assert [(line["event"], line["service"]) for line in lines] == [
        ("shown", "router"),
        ("now shown", "router"),
    ]


def test_line_carries_current_span() -> None:
    """Trace and span ids are those of the span that is current."""
    (line,) = _lines(f"""
        from opentelemetry import trace
        telemetry.setup("router")
        context = trace.SpanContext(0x{_TRACE}, 0x{_SPAN}, False, trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(context)):
            telemetry.get_logger("x").info("inside")
    """)

    assert (line["trace_id"], line["span_id"]) == (_TRACE, _SPAN)


def test_line_carries_trace_of_source() -> None:
    """Without a span the ids come from the call being served."""
    inside, outside = _lines(f"""
        telemetry.setup("router")
        header = "00-{_TRACE}-{_SPAN}-01"
        telemetry.add_trace_source(lambda: header)
        telemetry.get_logger("x").info("inside")
        header = None
        telemetry.get_logger("x").info("outside")
    """)

    assert (inside["trace_id"], inside["span_id"]) == (_TRACE, _SPAN)
    assert "trace_id" not in outside


def test_console_lines_are_for_people() -> None:
    """The console form has no JSON, and without a terminal no colours."""
    text = _run("""
        telemetry.setup("router", log_format="console")
        telemetry.get_logger("x").info("listening", port=7400)
    """)

    assert "listening" in text
    assert "port=7400" in text
    assert "{" not in text
    assert "\x1b[" not in text


def test_console_traceback_hides_local_variables() -> None:
    """Pretty tracebacks print local variables, and those hold secrets."""
    text = _run("""
        telemetry.setup("router", log_format="console")
        def connect():
            password = "hunter" + str(2)
            raise ValueError("no connection")
        try:
            connect()
        except ValueError:
            telemetry.get_logger("x").exception("caught")
    """)

    assert "ValueError: no connection" in text
    assert "hunter2" not in text


def test_values_that_are_no_json_are_shown_as_text() -> None:
    """A field of any type does not lose its line."""
    (line,) = _lines("""
        import pathlib
        telemetry.setup("router")
        telemetry.get_logger("x").info("e", path=pathlib.Path("/a"), kind=ValueError)
    """)

    assert line["path"] == "/a"
    assert "ValueError" in line["kind"]


def test_sdk_is_not_loaded_without_endpoint() -> None:
    """A process that exports nothing does not pay for the SDK at its start."""
    text = _run("""
        import os, sys
        os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
        telemetry.setup("router", log_format="console")
        loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "grpc"))]
        assert not loaded, loaded
    """)

    assert text == ""


@pytest.mark.parametrize("name", ["PREDICTION_ID", "MODEL", "ROUTE_REVISION", "FEATURE_SET"])
def test_attribute_names_have_prefix(name: str) -> None:
    """Our attributes are told apart from those of others."""
    from setpoint_telemetry import names

    assert getattr(names, name).startswith("setpoint.")
