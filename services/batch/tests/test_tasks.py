"""Tasks as a worker process does them, in this process, on real files and a real model."""

import contextlib
import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from setpoint_batch import testing
from setpoint_batch.domain.job import Format
from setpoint_batch.partition import csv_files, inputs, places, results, tasks
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as column_messages
from setpoint_runtime import errors

ROWS = 250
ENDINGS = ("parquet", "csv", "arrow")


def frame(rows: int = ROWS) -> pl.DataFrame:
    """Rows whose score is a + 2 b + 0.5."""
    numbers = np.arange(rows, dtype=np.float64)
    return pl.DataFrame({"key": [f"k{row}" for row in range(rows)], "a": numbers, "b": numbers / 2})


def written(folder: Path, table: pl.DataFrame, ending: str = "parquet") -> Path:
    path = folder / f"in.{ending}"
    if ending == "parquet":
        table.write_parquet(path, row_group_size=60)
    elif ending == "csv":
        table.write_csv(path)
    else:
        table.write_ipc(path)
    return path


def done(task: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    """Do a task and return its result."""
    return results.result_of(tasks.run({**task, "kind": kind, **more}))


def planned(task: dict[str, Any]) -> dict[str, Any]:
    return done(task, "plan")


def scored(task: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Work on every partition."""
    made = []
    for partition in plan["partitions"]:
        file = plan["files"][partition["file"]] if "file" in partition else None
        more = {"partition": partition, "file": file, "form": plan["form"]}
        made.append(done(task, "score", **more))
    return made


def committed(task: dict[str, Any]) -> dict[str, Any]:
    """Go all the way; return the manifest."""
    plan = planned(task)
    parts = scored(task, plan)
    counts = {"rows": sum(part["rows"] for part in parts)}
    listed = [{name: part[name] for name in ("name", "rows", "sha256")} for part in parts]
    answer = done(
        task, "commit", files=plan["files"], parts=listed, counts=counts, form=plan["form"]
    )
    manifest: dict[str, Any] = json.loads(Path(answer["manifest_url"][7:]).read_text())
    return manifest


def output(folder: Path, ending: str = "parquet") -> pl.DataFrame:
    files = sorted((folder / "out").glob(f"part-*.{ending}"))
    read: Any = {"parquet": pl.read_parquet, "csv": pl.read_csv, "arrow": pl.read_ipc}[ending]
    tables: list[pl.DataFrame] = [read(path) for path in files]
    return pl.concat(tables)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [[], ["key"]])
def test_files_to_files(tmp_path: Path, ending: str, kept: list[str]) -> None:
    """Each format goes in and comes out; rows keep their order, and what is kept its values."""
    source = written(tmp_path, frame(), ending)
    form = Format[ending.upper()]
    task = testing.task(tmp_path, source, output_format=int(form), kept_columns=kept)
    manifest = committed(task)
    found = output(tmp_path, ending)
    assert found["row"].to_list() == list(range(ROWS))
    assert found["score"].to_list() == (frame()["a"] * 2 + 0.5).to_list()
    assert set(found["status"]) == {0}
    assert found["version"].unique().to_list() == [testing.VERSION.version]
    assert ("key" in found.columns) == bool(kept)
    if kept:
        assert found["key"].equals(frame()["key"])
    assert manifest["counts"] == {"rows": ROWS}
    [file] = manifest["inputs"]
    assert (file["url"], file["rows"]) == (f"file://{source}", ROWS)
    assert manifest["model"]["version"] == testing.VERSION.version
    assert len(manifest["parts"]) == {"parquet": 4, "csv": 3, "arrow": 1}[ending]
    assert found["prediction_id"].n_unique() == ROWS


def test_partitions_do_not_matter(tmp_path: Path) -> None:
    """However rows are divided, the same attempt writes the same ids and scores."""
    source = written(tmp_path, frame(), "csv")
    made = []
    for number, (partition_rows, chunk_rows) in enumerate([(1_000, 1_000), (100, 40), (7, 3)]):
        folder = tmp_path / str(number)
        sizes = {"partition_rows": partition_rows, "chunk_rows": chunk_rows}
        committed(testing.task(folder, source, **sizes))
        made.append(output(folder))
    assert made[0].equals(made[1])
    assert made[0].equals(made[2])
    again = tmp_path / "again"
    committed(testing.task(again, source, attempt=2))
    assert output(again)["score"].equals(made[0]["score"])
    assert not set(output(again)["prediction_id"]) & set(made[0]["prediction_id"])


def test_folder_and_pattern(tmp_path: Path) -> None:
    """A folder stands for its files of known formats by name, a pattern for what fits it."""
    folder = tmp_path / "in"
    folder.mkdir()
    frame(10).write_parquet(folder / "b.parquet")
    frame(5).write_csv(folder / "a.csv")
    (folder / "notes.txt").write_text("no table")
    (folder / "_work.parquet").write_text("somebody's")
    plan = planned(testing.task(tmp_path, folder))
    assert [Path(each["url"]).name for each in plan["files"]] == ["a.csv", "b.parquet"]
    assert [each["first_row"] for each in plan["partitions"]] == [0, 5]
    plan = planned(testing.task(tmp_path, folder / "*.csv"))
    assert [Path(each["url"]).name for each in plan["files"]] == ["a.csv"]


def test_rows_inline(tmp_path: Path) -> None:
    """Rows that came with the request are one partition."""
    columns = Columns.from_dict(
        {"a": (DataType.INT64, [1, 2]), "b": (DataType.FLOAT32, [0.5, None])}
    )
    rows = column_messages.to_proto(columns).SerializeToString().hex()
    committed(testing.task(tmp_path, "rows:x", rows=rows))
    assert output(tmp_path)["score"].to_list()[0] == 2.5


def test_bad_rows_fail_alone(tmp_path: Path) -> None:
    """A number that the model's type cannot hold makes its row bad, with row and column named."""
    table = frame().with_columns(
        pl.when(pl.col("key") == "k77").then(1e300).otherwise(pl.col("a")).alias("a")
    )
    task = testing.task(tmp_path, written(tmp_path, table), with_inputs=True)
    plan = planned(task)
    parts = scored(task, plan)
    assert sum(part["failed"] for part in parts) == 1
    done(task, "commit", files=plan["files"], parts=[], counts={}, form=plan["form"])
    found = output(tmp_path)
    [bad] = found.filter(pl.col("status") != 0).to_dicts()
    assert (bad["row"], bad["status"], bad["score"], bad["input_a"]) == (77, 3, None, None)
    assert bad["error"].startswith('WRONG_TYPE: rows["a"][77]')
    good = found.filter(pl.col("status") == 0)
    assert good["score"].to_list() == [2 * row + 0.5 for row in range(ROWS) if row != 77]
    assert good["input_a"].to_list() == [float(row) for row in range(ROWS) if row != 77]


def test_text_that_is_no_number(tmp_path: Path) -> None:
    """A cell of a CSV that is no number refuses the file, with file, column and row."""
    source = tmp_path / "in.csv"
    lines = ["a,b", *(f"{row},1" for row in range(150)), "x7,1", *["1,1"] * 20]
    source.write_text("\n".join(lines))
    task = testing.task(tmp_path, source)
    plan = planned(task)
    with pytest.raises(
        errors.InvalidArgumentError, match="column 'a', row 150: 'x7' is no FLOAT32"
    ):
        scored(task, plan)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (frame().drop("b"), "column 'b': is not in the file"),
        (frame().with_columns(b=pl.lit("text")), "column 'b': holds STRING, not FLOAT32"),
        (frame().with_columns(b=pl.lit([1])), "column 'b'"),
    ],
)
def test_columns_refused(tmp_path: Path, table: pl.DataFrame, told: str) -> None:
    """A column that is not there, or of a type that cannot be meant, is told before anything runs."""
    with pytest.raises(errors.InvalidArgumentError, match=told) as caught:
        planned(testing.task(tmp_path, written(tmp_path, table)))
    assert caught.value.reason is errors.Reason.INVALID_INPUT
    assert "in.parquet" in caught.value.message


def arrow_file(folder: Path, table: pa.Table) -> Path:
    path = folder / "in.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def test_column_twice(tmp_path: Path) -> None:
    """A column whose name another one has too cannot be meant."""
    table = pa.table([pa.array([1.0])] * 3, names=["a", "b", "a"])
    with pytest.raises(errors.InvalidArgumentError, match="column 'a': is there twice"):
        planned(testing.task(tmp_path, arrow_file(tmp_path, table)))


def test_values_that_lie_elsewhere(tmp_path: Path) -> None:
    """A file whose offsets point outside of it is refused, and nothing of the process gets out."""
    table = pa.table({"a": [1.0] * 3, "b": [1.0] * 3, "key": ["one", "two", "six"]})
    source = arrow_file(tmp_path, table)
    offsets, others = struct.pack("<4i", 0, 3, 6, 9), struct.pack("<4i", 0, 4_000, 6, 9)
    content = source.read_bytes()
    assert content.count(offsets) == 1
    source.write_bytes(content.replace(offsets, others))
    task = testing.task(tmp_path, source, kept_columns=["key"])
    plan = planned(task)
    with pytest.raises(errors.InvalidArgumentError, match=r"in\.arrow") as caught:
        scored(task, plan)
    assert caught.value.reason is errors.Reason.INVALID_INPUT


@pytest.mark.parametrize(
    ("form", "kept"),
    [
        (Format.CSV, pa.array([[1], [2]])),
        (Format.CSV, pa.array([{"x": 1}, {"x": 2}])),
        (Format.CSV, pa.array([(1, 2, 3)] * 2, pa.month_day_nano_interval())),
        (Format.PARQUET, pa.array([(1, 2, 3)] * 2, pa.month_day_nano_interval())),
    ],
)
def test_kept_column_that_cannot_be_written(tmp_path: Path, form: Format, kept: pa.Array) -> None:
    """A column that the output's format cannot hold is told before anything runs."""
    source = arrow_file(tmp_path, pa.table({"a": [1.0] * 2, "b": [1.0] * 2, "key": kept}))
    task = testing.task(tmp_path, source, kept_columns=["key"], output_format=int(form))
    told = f"column 'key': its type .* cannot be written as {form.name}"
    with pytest.raises(errors.InvalidArgumentError, match=told):
        planned(task)


@pytest.mark.parametrize("name", ["row", "status", "score", "input_a"])
def test_kept_column_of_a_taken_name(tmp_path: Path, name: str) -> None:
    """A kept column does not take the place of one of the output's own, nor lose its own."""
    source = written(tmp_path, frame().with_columns(pl.col("key").alias(name)))
    task = testing.task(tmp_path, source, kept_columns=[name], with_inputs=True)
    with pytest.raises(errors.InvalidArgumentError, match=f"'{name}' would be there twice"):
        planned(task)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_damaged_file(tmp_path: Path, ending: str) -> None:
    """A file that is not what its ending says is refused by name."""
    source = tmp_path / f"in.{ending}"
    source.write_bytes(b"no table at all" * 10)
    with pytest.raises(errors.InvalidArgumentError, match=rf"in\.{ending}") as caught:
        planned(testing.task(tmp_path, source))
    assert caught.value.reason is errors.Reason.INVALID_INPUT


def test_nothing_there(tmp_path: Path) -> None:
    """An input that does not exist is not found."""
    with pytest.raises(errors.NotFoundError, match=r"none\.csv"):
        planned(testing.task(tmp_path, tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("nope://host/in.csv", errors.InvalidArgumentError),
        ("reference://in.csv", errors.InvalidArgumentError),
        ("ftp://127.0.0.1:1/in.csv", errors.UnavailableError),
    ],
)
def test_store_that_does_not_answer(
    tmp_path: Path, url: str, kind: type[errors.SetpointError]
) -> None:
    """A store that nobody knows is refused; one that is away may come back; both for in and out."""
    with pytest.raises(kind):
        inputs.look_through({**testing.task(tmp_path, ""), "input_url": url})
    with pytest.raises(kind):
        planned(testing.task(tmp_path, written(tmp_path, frame()), output_url=url))


def test_changed_file(tmp_path: Path) -> None:
    """A file that is another one by now is not mixed with what was read of the first."""
    source = written(tmp_path, frame())
    task = testing.task(tmp_path, source)
    plan = planned(task)
    frame(ROWS + 1).write_parquet(source)
    with pytest.raises(errors.FailedPreconditionError) as caught:
        scored(task, plan)
    assert caught.value.reason is errors.Reason.INPUT_CHANGED


def test_output_taken(tmp_path: Path) -> None:
    """A folder with something else in it is not touched."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(errors.FailedPreconditionError, match=r"precious\.txt") as caught:
        planned(testing.task(tmp_path, written(tmp_path, frame())))
    assert caught.value.reason is errors.Reason.OUTPUT_EXISTS
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def test_output_taken_meanwhile(tmp_path: Path) -> None:
    """What comes to lie at the output's place while a job runs is not touched either."""
    task = testing.task(tmp_path, written(tmp_path, frame()))
    plan = planned(task)
    scored(task, plan)
    committed({**task, "name": "other", "job_id": "0190a5d0-0000-7000-8000-000000000002"})
    before = output(tmp_path)
    with pytest.raises(errors.FailedPreconditionError) as caught:
        done(task, "commit", files=plan["files"], parts=[], counts={}, form=plan["form"])
    assert caught.value.reason is errors.Reason.OUTPUT_EXISTS
    done(task, "discard")
    assert output(tmp_path).equals(before)


def test_output_replaced(tmp_path: Path) -> None:
    """A further attempt of the same job replaces the output, another job may not."""
    source = written(tmp_path, frame())
    committed(testing.task(tmp_path, source))
    frame(30).write_parquet(source)
    committed(testing.task(tmp_path, source, attempt=2))
    assert len(output(tmp_path)) == 30
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    with pytest.raises(errors.FailedPreconditionError):
        planned(testing.task(tmp_path, source, name="other"))


def test_nothing_before_commit(tmp_path: Path) -> None:
    """Until the commit nothing is at the output's place; a discard leaves nothing at all."""
    source = written(tmp_path, frame())
    task = testing.task(tmp_path, source)
    scored(task, planned(task))
    assert not (tmp_path / "out").exists()
    done(task, "discard")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.parquet", "work"]


def test_verify_and_committed(tmp_path: Path) -> None:
    """A part that was changed or is gone is told; a commit is known again by its attempt."""
    source = written(tmp_path, frame())
    task = testing.task(tmp_path, source)
    plan = planned(task)
    parts = scored(task, plan)
    [scratch] = tmp_path.glob(".out*.new")
    (scratch / parts[0]["name"]).write_bytes(b"damaged")
    (scratch / parts[1]["name"]).unlink()
    good = done(task, "verify", parts=parts)["good"]
    assert good == [part["name"] for part in parts[2:]]
    assert done(task, "committed")["manifest_url"] == ""
    done(task, "commit", files=plan["files"], parts=[], counts={}, form=plan["form"])
    assert done(task, "committed")["manifest_url"].endswith("/out/manifest.json")
    assert done({**task, "attempt": 2}, "committed")["manifest_url"] == ""


class Store:
    """A job whose output lies in an object store."""

    def __init__(self, folder: Path) -> None:
        self.url = f"memory://{folder.name}/out"
        self.task = testing.task(folder, written(folder, frame()), output_url=self.url)

    def attempt(self, number: int, partitions: int = 3) -> tuple[dict[str, Any], list[Any]]:
        """Write the parts of an attempt; return its commit and the parts."""
        task = {**self.task, "attempt": number}
        plan = planned(task)
        parts = scored(task, {**plan, "partitions": plan["partitions"][:partitions]})
        more = {"files": plan["files"], "parts": parts, "counts": {}, "form": plan["form"]}
        return {**task, "kind": "commit", **more}, parts

    def shown(self) -> list[str]:
        """Return the parts that the manifest names, each of them checked; none without one."""
        told = places.read(f"{self.url}/manifest.json")
        parts = json.loads(told)["parts"] if told else []
        for part in parts:
            assert places.sha256(f"{self.url}/{part['name']}") == part["sha256"]
        return [part["name"].split("/")[-1] for part in parts]

    def files(self) -> int:
        """Count everything that lies there but the manifest."""
        folders = [each for each in places.names(self.url) if each != "manifest.json"]
        return sum(len(places.names(f"{self.url}/{each}")) for each in folders)


def test_commit_in_a_store_is_one_write(tmp_path: Path) -> None:
    """Where nothing can be renamed the manifest is the output; what it does not name goes away."""
    store = Store(tmp_path)
    commit, parts = store.attempt(1)
    assert store.shown() == []
    results.result_of(tasks.run(commit))
    assert store.shown() == [part["name"] for part in parts]
    commit, fewer = store.attempt(2, partitions=1)
    assert store.shown() == [part["name"] for part in parts]
    results.result_of(tasks.run(commit))
    assert store.shown() == [fewer[0]["name"]]
    assert store.files() == 1


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["before the manifest", "after the manifest", "in the middle"])
def test_commit_in_a_store_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whenever a commit is killed readers see the old output or the new one, and the job goes on."""
    store = Store(tmp_path)
    commit, old = store.attempt(1)
    results.result_of(tasks.run(commit))
    commit, new = store.attempt(2)
    name = "written" if step == "before the manifest" else "remove"
    real, calls = getattr(places, name), iter(range(100))

    def killed(*args: Any) -> Any:
        if step != "in the middle" or next(calls) == 1:
            raise KilledError
        return real(*args)

    with monkeypatch.context() as patch, contextlib.suppress(KilledError):
        patch.setattr(places, name, killed)
        tasks.run(commit)
    expected = old if step == "before the manifest" else new
    assert store.shown() == [part["name"] for part in expected]
    is_there = bool(done({**store.task, "attempt": 2}, "committed")["manifest_url"])
    assert is_there is (expected is new)
    if not is_there:
        results.result_of(tasks.run(commit))
    assert store.shown() == [part["name"] for part in new]
    assert store.files() == 3


def test_commit_in_a_store_that_cannot_tidy_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed stands: neither a failure behind it nor a discard takes its parts away."""
    store = Store(tmp_path)
    commit, _ = store.attempt(1)
    results.result_of(tasks.run(commit))
    commit, new = store.attempt(2)

    def away(url: str) -> None:
        raise OSError(f"{url} is away")

    with monkeypatch.context() as patch:
        patch.setattr(places, "remove", away)
        results.result_of(tasks.run(commit))
    done({**store.task, "attempt": 2}, "discard")

    assert store.shown() == [part["name"] for part in new]
    assert store.files() == 3


def test_store_after_an_attempt_that_was_never_committed(tmp_path: Path) -> None:
    """Parts that a dead attempt left hinder no further one of the job, and stop every other job."""
    store = Store(tmp_path)
    store.attempt(1)
    commit, parts = store.attempt(2)
    other = {**store.task, "name": "other", "job_id": "0190a5d0-0000-7000-8000-000000000002"}
    with pytest.raises(errors.FailedPreconditionError):
        planned(other)
    results.result_of(tasks.run(commit))
    assert store.shown() == [part["name"] for part in parts]
    assert store.files() == 3
    done({**store.task, "attempt": 3}, "plan")
    done({**store.task, "attempt": 3}, "discard")
    assert store.shown() == [part["name"] for part in parts]


def test_late_process_writes_over_nothing(tmp_path: Path) -> None:
    """A process that finishes a part after another one did leaves the output as it was committed."""
    store = Store(tmp_path)
    commit, parts = store.attempt(1)
    store.attempt(1)
    results.result_of(tasks.run(commit))
    store.attempt(1)
    assert store.shown() == [part["name"] for part in parts]


@pytest.mark.parametrize("codec", ["gz", "bz2", "zst"])
def test_compressed_csv(tmp_path: Path, codec: str) -> None:
    """A compressed file is read by its ending, in one piece, with the digest of what lies there."""
    plain = written(tmp_path, frame(), "csv")
    whole = committed(testing.task(tmp_path, plain))
    expected = output(tmp_path).sort("row")
    path = tmp_path / f"in.csv.{codec}"
    with pa.CompressedOutputStream(str(path), csv_files.COMPRESSIONS[f".{codec}"]) as target:
        target.write(plain.read_bytes())
    manifest = committed(testing.task(tmp_path, path, attempt=2))
    assert output(tmp_path).drop("prediction_id").equals(expected.drop("prediction_id"))
    [file] = manifest["inputs"]
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file["size"], file["rows"]) == (path.stat().st_size, ROWS)
    assert len(manifest["parts"]) == 1 < len(whole["parts"])


@pytest.mark.parametrize("cut", [10, 100])
def test_compressed_csv_damaged(tmp_path: Path, cut: int) -> None:
    """A compressed file that ends too early is told by name."""
    path = tmp_path / "in.csv.gz"
    plain = written(tmp_path, frame(), "csv")
    path.write_bytes(gzip.compress(plain.read_bytes())[:-cut])
    with pytest.raises(errors.InvalidArgumentError, match=r"in\.csv\.gz") as caught:
        planned(testing.task(tmp_path, path))
    assert caught.value.reason is errors.Reason.INVALID_INPUT


def limited(folder: Path, source: Path, **changes: Any) -> dict[str, Any]:
    """A task that may use a folder alone."""
    task = testing.task(folder, source, **changes)
    task["around"]["url_prefixes"] = [f"file://{folder}"]
    return task


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    """A link to a file, or through a folder, is followed within what jobs may use, and not out of it."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
        written(folder, frame())
    (inside / "file.parquet").symlink_to(outside / "in.parquet")
    (inside / "folder").symlink_to(outside)
    (inside / "near.parquet").symlink_to(inside / "in.parquet")
    for place in ("file.parquet", "folder/in.parquet", "folder", "f*.parquet"):
        with pytest.raises(errors.PermissionDeniedError, match="symbolic link") as caught:
            planned(limited(inside, inside / place))
        assert caught.value.reason is errors.Reason.URL_REFUSED
    committed(limited(inside, inside / "near.parquet"))
    linked = f"file://{inside}/folder/out"
    with pytest.raises(errors.PermissionDeniedError):
        planned(limited(inside, inside / "in.parquet", output_url=linked))
    assert sorted(each.name for each in outside.iterdir()) == ["in.parquet"]


def test_input_that_becomes_a_link_is_refused(tmp_path: Path) -> None:
    """What was looked through and is a link afterwards is not read."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    source = written(inside, frame())
    task = limited(inside, source)
    plan = planned(task)
    source.rename(outside / "in.parquet")
    source.symlink_to(outside / "in.parquet")
    with pytest.raises(errors.PermissionDeniedError):
        scored(task, plan)


def test_bounded_chunks(tmp_path: Path) -> None:
    """However large a row group is, no more rows than a chunk are read at once."""
    source = tmp_path / "in.parquet"
    frame(1_000).write_parquet(source)
    task = testing.task(tmp_path, source)
    plan = planned(task)
    [partition] = plan["partitions"]
    asked = {**task, "partition": partition, "file": plan["files"][0], "form": plan["form"]}
    from setpoint_batch.partition import forms

    sizes = [each.num_rows for each in inputs.read(asked, forms.form_of(asked))]
    assert sum(sizes) == 1_000
    assert max(sizes) <= 40
