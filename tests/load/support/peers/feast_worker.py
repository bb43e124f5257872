"""Feast on the same rows: ``feast_worker.py``, in an environment that has it.

Questions come as lines of JSON on the standard input, and each is answered by a line on the standard
output. It ends with its input.
"""

import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Float32

VIEW = "account"
PRECOMPUTED = "precomputed"
OFFLINE = ("dask", "duckdb")


class Worker:
    """One Feast project, online in Valkey, offline in a Parquet file."""

    def prepare(self, told: dict[str, Any]) -> dict[str, Any]:
        """Applies the definitions and fills the online store."""
        self.key: str = told["key"]
        self.fields: list[str] = told["fields"]
        self.stores = {kind: _store(told, kind) for kind in OFFLINE}
        self.store = self.stores[OFFLINE[0]]
        self.store.apply(_definitions(told))
        latest = pd.read_parquet(told["latest"])
        began = time.perf_counter()
        self.store.write_to_online_store(VIEW, latest)
        seconds = time.perf_counter() - began
        self.store.precompute_feature_service(PRECOMPUTED)
        self.forms = {
            "references": [f"{VIEW}:{name}" for name in self.fields],
            PRECOMPUTED: self.store.get_feature_service(PRECOMPUTED),
        }
        return {"written_rows_a_second": len(latest) / seconds}

    def values(self, told: dict[str, Any]) -> dict[str, Any]:
        """Returns the values of some accounts."""
        found: dict[str, Any] = self._ask(told["form"], told["accounts"]).to_dict()
        return {name.removeprefix(f"{VIEW}__"): values for name, values in found.items()}

    def online(self, told: dict[str, Any]) -> dict[str, Any]:
        """Asks about accounts in turn, in so many threads; returns the rate and the median time."""
        form, questions, seconds = told["form"], told["questions"], told["seconds"]
        self._ask(form, questions[0])
        taken: list[float] = []
        began = time.perf_counter()

        def go_on(number: int) -> None:
            is_over = False
            while not is_over:
                sent = time.perf_counter()
                self._ask(form, questions[number % len(questions)])
                answered = time.perf_counter()
                taken.append(answered - sent)
                number += told["callers"]
                is_over = answered - began >= seconds

        threads = [threading.Thread(target=go_on, args=(i,)) for i in range(told["callers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked = len(taken) * len(questions[0])
        rate = asked / (time.perf_counter() - began)
        return {"rate": rate, "p50_ms": 1000 * statistics.median(taken)}

    def history(self, told: dict[str, Any]) -> dict[str, Any]:
        """Joins a spine; returns the time, and writes the table where one is asked for."""
        spine = pd.read_parquet(told["spine"])
        references = [f"{VIEW}:{name}" for name in self.fields]
        began = time.perf_counter()
        job = self.stores[told["form"]].get_historical_features(spine, references)
        found = job.to_df()
        seconds = time.perf_counter() - began
        if told.get("output"):
            found.to_parquet(told["output"])
        return {"seconds": seconds, "rows": len(found)}

    def _ask(self, form: str, accounts: list[int]) -> Any:
        # Vectors that were computed before are only found by full names.
        return self.store.get_online_features(
            self.forms[form], {self.key: accounts}, full_feature_names=form == PRECOMPUTED
        )


def _store(told: dict[str, Any], offline: str) -> FeatureStore:
    folder = Path(told["folder"])
    config = RepoConfig(
        project="bench",
        provider="local",
        # As the guide on performance has it: the registry is not read again while it serves.
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 3600},
        online_store={"type": "redis", "connection_string": told["valkey"]},
        offline_store={"type": offline},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    return FeatureStore(config=config)


def _definitions(told: dict[str, Any]) -> list[Any]:
    account = Entity(name=VIEW, join_keys=[told["key"]], value_type=ValueType.INT64)
    source = FileSource(
        path=told["history"],
        timestamp_field=told["event_time"],
        created_timestamp_column=told["created_time"],
    )
    view = FeatureView(
        name=VIEW,
        entities=[account],
        schema=[Field(name=name, dtype=Float32) for name in told["fields"]],
        source=source,
    )
    service = FeatureService(name=PRECOMPUTED, features=[view], precompute_online=True)
    return [account, view, service]


def main() -> None:
    """Answers until nothing more is asked."""
    # What Feast prints is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        told = json.loads(line)
        answers.write(json.dumps(getattr(worker, told["do"])(told)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
