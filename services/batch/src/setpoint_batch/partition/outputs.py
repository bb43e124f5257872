"""The output of a job: it is there from one moment to the next, or not at all.

A local folder appears whole, by one rename. An object store has no such rename, but writes one object at
once: there parts lie in a folder of their attempt from the beginning, and are the output when the one
manifest names them. Nothing is moved, so a job that dies in the middle leaves the output of before as it
was.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import posixpath
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from setpoint_batch.domain.job import Format
from setpoint_batch.partition import failures, forms, places
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORM = 1
"""Of the manifest."""

_ENDINGS = {Format.PARQUET: "parquet", Format.CSV: "csv", Format.ARROW: "arrow"}


OWN_COLUMNS = (
    "row",
    "prediction_id",
    "version",
    "event_time",
    "status",
    "error",
    "degradations",
)


def check_names(
    task: Mapping[str, Any],
    form: forms.Form,
    model: forms.Model,
    feature_set: forms.FeatureSet | None,
) -> None:
    """Refuses an output two of whose columns would have the same name, since one would be lost.

    Raises:
        InvalidArgumentError: Names the column.
    """
    names = [*OWN_COLUMNS, *form.copied, *(name for spec in model.outputs for name in spec.columns)]
    if task["with_inputs"]:
        features = feature_set.features if feature_set and form.by_entities else ()
        names += [f"input_{name}" for name in (*features, *form.given)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        rule = "would be there twice: of what is kept, of what the model says and of the platform's own"
        raise errors.invalid("spec.output", min(twice), rule)


def check_types(task: Mapping[str, Any], form: forms.Form, url: str, schema: pa.Schema) -> None:
    """Refuses a column to keep that the format of the output cannot hold.

    Raises:
        InvalidArgumentError: INVALID_INPUT, naming file and column.
    """
    written = Format(task["output_format"] or Format.PARQUET)
    for name in form.copied:
        kind = schema.field(name).type
        writer = PartWriter(places.Hashing(io.BytesIO()), written)
        try:
            writer.write(pa.table({name: pa.nulls(1, kind)}))
            writer.close()
        except pa.ArrowException as error:
            what = f"its type {kind} cannot be written as {written.name}"
            raise failures.invalid_input(url, what, column=name) from error


class Output:
    """Where the output of one attempt goes."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        """Read it from a task."""
        self._task = task
        self._format = Format(task["output_format"] or Format.PARQUET)
        self.url = str(task["output_url"])
        self.manifest_url = f"{self.url}/{MANIFEST}"
        attempt = f"{task['job_id']}-{task['attempt']}"
        above, name = posixpath.split(self.url)
        self._is_renamed = places.is_local(self.url)
        self._replaced = f"{above}/.{name}.{attempt}.old"
        self._folder = "" if self._is_renamed else f"{attempt}/"
        """Where parts lie beside the manifest."""
        self._scratch = f"{above}/.{name}.{attempt}.new"
        if not self._is_renamed:
            self._scratch = f"{self.url}/{attempt}"

    def prepare(self) -> None:
        """Make room for parts.

        Raises:
            FailedPreconditionError: OUTPUT_EXISTS, if something else lies there.
        """
        places.check_links(self.url, self._task["around"])
        self._refuse_others()
        places.make_folder(self._scratch)

    def _refuse_others(self) -> None:
        # Parts of attempts of this job that were never committed are nobody else's.
        own = (".", f"{self._task['job_id']}-")
        found = [name for name in places.names(self.url) if not name.startswith(own)]
        if found and not self._is_of_this_job(self._manifest()):
            raise errors.FailedPreconditionError(
                errors.Reason.OUTPUT_EXISTS,
                f"{self.url}: holds {', '.join(found[:3])}, which is no output of job"
                f" {self._task['name']!r} for this time",
                metadata={"url": self.url},
            )

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[PartWriter]:
        """Write a part that is whole, and on disk, or not there."""
        mark = "" if self._is_renamed else f"-{secrets.token_hex(4)}"
        # Where parts are part of the output from the beginning, a process that comes back late must not
        # write over the one that was taken.
        name = f"part-{number:05d}{mark}.{_ENDINGS[self._format]}"
        with places.written(f"{self._scratch}/{name}") as file:
            writer = PartWriter(file, self._format, name)
            try:
                yield writer
            finally:
                writer.close()

    def good(self, parts: list[Mapping[str, str]]) -> list[str]:
        """Return the names of the parts whose files are as they were written."""
        found = []
        for part in parts:
            url = f"{self._scratch}/{part['name']}"
            if places.exists(url) and places.sha256(url) == part["sha256"]:
                found.append(part["name"])
        return found

    def is_committed(self) -> bool:
        """Say whether the output of this very attempt is there, and finish tidying up behind it."""
        if not self._is_shown():
            return False
        self._tidy()
        return True

    def _is_shown(self) -> bool:
        told = self._manifest().get("batch_prediction", {})
        task = self._task
        return (told.get("id"), told.get("attempt")) == (task["job_id"], task["attempt"])

    def commit(self) -> None:
        """Let the output appear, with its manifest; what an earlier attempt left is replaced.

        Asked again, because a process died over its answer, it does nothing.

        Raises:
            FailedPreconditionError: OUTPUT_EXISTS, if something else has come to lie there.
        """
        places.check_links(self.url, self._task["around"])
        if self.is_committed():
            return
        self._refuse_others()
        content = json.dumps(self._story(), indent=2, sort_keys=False).encode()
        with places.written(
            f"{self._scratch if self._is_renamed else self.url}/{MANIFEST}"
        ) as file:
            file.write(content)
        if self._is_renamed:
            if places.exists(self.url):
                places.move(self.url, self._replaced)
            places.move(self._scratch, self.url)
        self._tidy()

    def _tidy(self) -> None:
        """Take away what the output of this attempt has replaced, and parts that nobody took.

        The output stands by then: what cannot be taken away now stays, and goes with the next one.
        """
        try:
            self._take_away()
        except (errors.SetpointError, OSError) as error:
            _LOGGER.warning("%s: what was replaced is left: %s", self.url, error)

    def _take_away(self) -> None:
        if self._is_renamed:
            places.remove(self._replaced)
            return
        listed = {part["name"] for part in self._manifest().get("parts", ())}
        kept = {MANIFEST, *(name.split("/")[0] for name in listed)}
        for name in places.names(self.url):
            if name not in kept:
                places.remove(f"{self.url}/{name}")
        for name in places.names(self._scratch):
            if f"{self._folder}{name}" not in listed:
                places.remove(f"{self._scratch}/{name}")

    def discard(self) -> None:
        """Take away what this attempt has written; an output that it was about to replace stays.

        Once its manifest is there the attempt's output stands, even where nobody could be told.
        """
        if self._is_shown():
            self._tidy()
            return
        if self._is_renamed and places.exists(self._replaced):
            if places.exists(self.url):
                places.remove(self._replaced)
            else:
                places.move(self._replaced, self.url)
        places.remove(self._scratch)

    def _manifest(self) -> dict[str, Any]:
        content = places.read(self.manifest_url)
        try:
            told = json.loads(content) if content else {}
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    def _is_of_this_job(self, manifest: Mapping[str, Any]) -> bool:
        told = manifest.get("batch_prediction", {})
        return (told.get("name"), told.get("asked_time")) == (
            self._task["name"],
            self._task["asked_time"],
        )

    def _story(self) -> dict[str, Any]:
        task = self._task
        model, feature_set, rules = task["model"], task["feature_set"], task["rules"]
        parts = [
            {**part, "name": f"{self._folder}{part['name']}", "format": _ENDINGS[self._format]}
            for part in task["parts"]
        ]
        return {
            "form": FORM,
            "batch_prediction": {
                "id": task["job_id"],
                "attempt": task["attempt"],
                "name": task["name"],
                "asked_time": task["asked_time"],
                "event_time": task["event_time"],
                "date": datetime.fromtimestamp(task["event_time"] / 1e6, UTC).isoformat(),
            },
            "model": {
                "name": model["model"],
                "version": model["version"],
                "manifest_digest": model["manifest_digest"],
                "artifact_digest": model["artifact_digest"],
            },
            "feature_set": feature_set
            and {"name": feature_set["name"], "version": feature_set["version"]},
            "features": "fetched" if task["form"]["by_entities"] else "given",
            "rules": rules and {"revision": rules["revision"], "suites": rules["names"]},
            "inputs": [
                {name: file[name] for name in ("url", "size", "sha256", "rows")}
                for file in task["files"]
            ]
            or [{"url": task["input_url"]}],
            "counts": task["counts"],
            "parts": parts,
        }


class PartWriter:
    """Appends tables to a part; the first one decides about columns and types."""

    def __init__(self, file: places.Hashing, form: Format, name: str = "") -> None:
        """Write to a file of a name, which somebody else opens and closes."""
        self.file = file
        self.name = name
        self._form = form
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if self._writer is None:
            self._writer = self._opened(table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write what belongs to the end."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _opened(self, schema: pa.Schema) -> Any:
        sink = pa.PythonFile(self.file, mode="w")
        if self._form is Format.CSV:
            return arrow_csv.CSVWriter(sink, schema)
        if self._form is Format.ARROW:
            return pa.ipc.new_file(sink, schema)
        return parquet.ParquetWriter(sink, schema)
