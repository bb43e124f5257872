"""Jobs as JSON documents, both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from setpoint_batch.domain.job import Format, Job, Progress, Spec, State, Version


def job_to_json(job: Job) -> dict[str, Any]:
    """Writes a job; id and etag are columns of their own."""
    body = dataclasses.asdict(job)
    del body["etag"], body["job_id"]
    return body


def job_from_json(job_id: str, body: Mapping[str, Any], etag: int) -> Job:
    """Reads a job."""
    told = dict(body)
    spec, version = dict(told["spec"]), dict(told["version"])
    spec["input_format"] = Format(spec["input_format"])
    spec["output_format"] = Format(spec["output_format"])
    spec["kept_columns"] = tuple(spec["kept_columns"])
    version["feature_set"] = tuple(version["feature_set"])
    told["spec"], told["version"] = Spec(**spec), Version(**version)
    told["progress"] = Progress(**told["progress"])
    told["state"] = State(told["state"])
    return Job(job_id=job_id, **told, etag=etag)
