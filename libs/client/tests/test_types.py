import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]

_GOOD = """
from collections.abc import AsyncIterator, Iterator
from setpoint_client import AsyncClient, Client, Columns, Prediction, Question

def use(client: Client, rows: Columns) -> float:
    answer: Prediction = client.predict("r", entities={"carrier": "UA"}, timeout=1)
    table: Columns = client.predict_batch("r", rows).frame
    return float(answer.outputs["p"]) + table.rows

def use_streams(client: Client, rows: Iterator[Columns]) -> None:
    for answer in client.predict_stream("r", [Question(id="1", entities={"carrier": "UA"})]):
        prediction: Prediction = answer.get()
        print(answer.id, prediction.outputs, answer.error)
    for batch in client.predict_batches("r", rows):
        table: Columns = batch.frame
        print(table.rows)

async def use_async_streams(client: AsyncClient, rows: AsyncIterator[Columns]) -> int:
    async for answer in client.predict_stream("r", [Question(id="1", inputs={"x": 1})]):
        print(answer.get().prediction_id)
    return sum([batch.frame.rows async for batch in client.predict_batches("r", rows)])

async def use_async(client: AsyncClient, rows: Columns) -> Columns:
    await client.record_outcome("id", 1.0, 5)
    return (await client.get_online_features("set", rows)).frame
"""

# Each line must be refused, by the error named beside it.
_BAD = """
import datetime as dt
import grpc
from setpoint_client import AsyncClient, Client, Columns

def use(client: Client, rows: Columns) -> None:
    client.predict(1)  # arg-type
    client.predict("r", {"carrier": "UA"})  # call-arg
    client.predict("r", entity={"carrier": "UA"})  # call-arg
    client.predict("r", entities=[("carrier", "UA")])  # arg-type
    client.predict("r", event_time="2013-01-01")  # arg-type
    client.predict("r", timeout="1")  # arg-type
    client.predict("r").probability  # attr-defined
    client.predict_batch("r")  # call-arg
    client.predict_stream("r", [{"id": "1"}])  # list-item
    client.predict_batches("r", 7)  # arg-type
    client.predict("r", request_id=7)  # arg-type
    client.write_features("v", rows, batch_id=7)  # arg-type
    client.get_online_features("s", rows, as_of="now")  # arg-type
    client.record_outcome("id", "late", 5)  # arg-type
    client.record_outcome("id", 1.0)  # call-arg
    client.stubs.rooter  # attr-defined
    Client("127.0.0.1:7400")  # call-arg
    Client(router_adress="127.0.0.1:7400")  # call-arg
    Client(router_address=7400)  # arg-type
    Client(credentials="pem")  # arg-type
    Client(retry=3)  # arg-type

async def use_async(client: AsyncClient) -> None:
    client.predict("r")  # unused-coroutine
    (await client.predict("r")).outputs.p  # attr-defined
    client.predict("r").outputs  # attr-defined
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for snippets and for what mypy learns about the libraries."""
    return tmp_path_factory.mktemp("types")


def _check(folder: Path, text: str) -> str:
    source = folder / "snippet.py"
    source.write_text(text)
    command = [
        *(sys.executable, "-m", "mypy", "--config-file", str(_ROOT / "pyproject.toml")),
        *("--no-pretty", "--no-error-summary", "--hide-error-context"),
        *("--cache-dir", str(folder / "cache"), str(source)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_wrong_calls_are_refused(folder: Path) -> None:
    """Mypy refuses each misuse of the client by the error expected, and nothing else."""
    output = _check(folder, _BAD)
    found = {}
    for line in output.splitlines():
        if " error: " in line:
            found[int(line.split(":")[1])] = line.rpartition("[")[2].rstrip("]")
    expected = {
        number: line.rpartition("# ")[2]
        for number, line in enumerate(_BAD.splitlines(), 1)
        if "  # " in line
    }
    assert found == expected, output


@pytest.mark.timeout(180)
def test_right_calls_are_accepted(folder: Path) -> None:
    """Mypy knows the types of answers, frames among them."""
    assert _check(folder, _GOOD) == ""
