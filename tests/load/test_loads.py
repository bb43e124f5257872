from pathlib import Path

import pytest
from tests.load.support import generator, loads

TARGET = loads.Target("full", "grpc", 7, "/a.B/C", Path("messages"), {"traceparent": "00"})
LEVEL, TIMES = loads.Level(4, 8), loads.Times(0.25, 1.5)

PRINTED = """
finished in 2.51s, 5626.00 req/s, 340.18KB/s
requests: 4 total, 9 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 680.35KB (696683) total, 38.23KB (39144) headers (space savings 96.27%), {data}B ({data}) data
"""
LOG = "1795413586027579\t200\t1000\n" * 3 + "1795413586034417\t200\t5000\n"


def test_read_h2load_takes_rate_and_latencies() -> None:
    """Answers come from the summary, percentiles from the log of all answers."""
    found = loads.read_h2load(PRINTED.format(data=400), LOG, 2.0)
    assert found == generator.Window(4, 0, 2.0, 1.0, 5.0, 5.0)
    assert found.rate == 2.0


def test_read_h2load_sees_errors_of_grpc() -> None:
    """Answers with status 200 that carried no message are failures."""
    found = loads.read_h2load(PRINTED.format(data=0), LOG, 2.0)
    assert (found.answered, found.failed) == (0, 4)


def test_read_h2load_refuses_what_it_does_not_know() -> None:
    """Another version's output is an error, not a zero."""
    with pytest.raises(loads.LoadError, match="unknown"):
        loads.read_h2load("finished", LOG, 2.0)


def test_h2load_arguments_for_grpc() -> None:
    """Streams share connections, and the headers make it a gRPC call."""
    found = loads.h2load_arguments(TARGET, LEVEL, TIMES, Path("body"), Path("log"))
    assert {"--clients=4", "--max-concurrent-streams=8", "--warm-up-time=250ms"} <= set(found)
    assert {"--duration=1500ms", "--header=te: trailers", "--header=traceparent: 00"} <= set(found)
    assert "--h1" not in found
    assert found[-1] == "http://127.0.0.1:7/a.B/C"


def test_h2load_arguments_for_json() -> None:
    """HTTP/1.1 has a connection for each caller."""
    target = loads.Target("plain", "json", 7, "/predict", Path("messages"))
    found = loads.h2load_arguments(target, LEVEL, TIMES, Path("body"), Path("log"))
    assert {"--h1", "--clients=32", "--max-concurrent-streams=1"} <= set(found)
    assert "--header=content-type: application/json" in found


def test_choose_takes_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """h2load is used where it is installed, unless the other one is asked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(loads.choose(tmp_path), loads.Bundled)
    with pytest.raises(loads.LoadError, match="not installed"):
        loads.choose(tmp_path, "h2load")
    program = tmp_path / "h2load"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert isinstance(loads.choose(tmp_path), loads.H2Load)
    assert isinstance(loads.choose(tmp_path, "bundled"), loads.Bundled)
