"""The versions that this replica holds: loading, ready or failed."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from setpoint_artifacts import refusal, signature
from setpoint_inference import ports
from setpoint_inference.domain import cost, version
from setpoint_inference.domain.hold import Hold
from setpoint_inference.domain.version import Format, Manifest, VersionKey
from setpoint_inference.service import opening
from setpoint_inference.service.batcher import Batcher
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks
from setpoint_scoring.runner import Engine, Runner

_LOGGER = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""A version whose load failed because something did not answer is tried again after this time."""
RETRY_REFUSED_SECONDS = 10.0
"""A version that was refused is tried again after this time; it is immutable, but what refused it
may have been a damaged file."""

MAX_FAILED = 1_000
"""Versions that are remembered for having failed, the newest; while the registry is away every name
that somebody thinks of is one."""


@dataclass(eq=False, slots=True)
class Counts:
    """What a version has answered."""

    on_loop: int = 0
    in_pool: int = 0
    in_batch: int = 0
    """Calls that shared a run, or could have."""
    rows: int = 0
    run_us: int = 0

    def calls(self) -> tuple[int, int, int]:
        """Return the calls that ran on the event loop, in the pool, and through a batch."""
        return self.on_loop, self.in_pool, self.in_batch


@dataclass(eq=False, slots=True)
class ReadyModel:
    """A version that answers."""

    manifest: Manifest
    runner: Runner | ports.Remote
    cost: cost.Cost
    has_loops: bool
    """How long a run takes depends on what goes in, so no estimate holds."""
    is_remote: bool
    """It runs outside this process."""
    may_inline: bool
    """A short run may hold the event loop."""
    ready_time: int
    last_used: float
    memory_bytes: int
    """What it takes, measured when it was opened; at least the size of its artifact."""
    hold: Hold
    """Who needs it, calls aside: with anybody it is dropped only when no other is left to drop."""
    counts: Counts = field(default_factory=Counts)
    batcher: Batcher | None = None
    """Where calls wait for each other; None when each runs by itself."""
    is_settled: bool = False
    """Whether that has been decided."""
    _running: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Count a call that runs off the event loop."""
        self._running += 1

    def end(self) -> None:
        """Count the end of its work."""
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no call runs; new ones must not begin any more."""
        while self._running:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Wait until no call runs, and let go of what runs outside this process."""
        await self.idle()
        if self.is_remote:
            await cast("ports.Remote", self.runner).close()


@dataclass(eq=False, slots=True)
class Attempt:
    """A load that runs, or that has failed."""

    key: VersionKey
    manifest: Manifest | None = None
    error: errors.SetpointError | None = None
    """Why it failed; None while it runs."""
    failed_at: float = 0.0
    hold: Hold = field(default_factory=Hold)
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is loaded."""

    max_artifact_bytes: int
    """Largest artifact."""
    max_loaded_bytes: int
    """Memory of all versions together."""
    load_seconds: float
    """Longest time for one load."""


@dataclass(eq=False, slots=True)
class LoadCounts:
    """What the table has done."""

    loaded: int = 0
    failed: int = 0
    evicted: int = 0
    """Versions dropped for memory that had been loaded by a call."""
    evicted_pinned: int = 0
    """Versions dropped for memory that had been loaded by name."""
    released: int = 0
    """Versions dropped because nobody needed them any more."""


class Models:
    """The table. A version is loaded once however many ask for it, and drops out when unused."""

    def __init__(
        self,
        versions: ports.Versions,
        inspector: ports.Inspector,
        engine: Engine,
        workers: ports.Workers,
        clock: clocks.Clock,
        owner: tasks.TaskOwner,
        limits: Limits,
        memory: Callable[[], int],
        backends: Mapping[Format, ports.Backend],
    ) -> None:
        """Connect the parts.

        Args:
            versions: Where versions come from.
            inspector: Looks into artifacts.
            engine: Runs ONNX.
            workers: The threads.
            clock: The time.
            owner: Keeps the tasks that load.
            limits: How much is loaded.
            memory: Tells how much this process has.
            backends: What runs other formats, as far as they are enabled.
        """
        self._versions = versions
        self._inspector = inspector
        self._engine = engine
        self._workers = workers
        self._clock = clock
        self._owner = owner
        self._limits = limits
        self._memory = memory
        self._backends = backends
        self.counts = LoadCounts()
        self._max_artifact_bytes = min(limits.max_artifact_bytes, limits.max_loaded_bytes)
        self._ready: dict[VersionKey, ReadyModel] = {}
        self._attempts: dict[VersionKey, Attempt] = {}

    def ready(self, key: VersionKey) -> ReadyModel | None:
        """Return a version that answers, without waiting."""
        return self._ready.get(key)

    def answers(self, key: VersionKey) -> bool | None:
        """Say whether a version answers; None when it is not here at all."""
        if key in self._ready:
            return True
        return False if key in self._attempts else None

    def newest(self, model: str) -> VersionKey | None:
        """Return the newest version of a model that answers."""
        return max((key for key in self._ready if key.model == model), default=None)

    def all(self) -> list[tuple[VersionKey, ReadyModel | Attempt]]:
        """Return every version here, by model and number."""
        together: dict[VersionKey, ReadyModel | Attempt] = {**self._attempts, **self._ready}
        return sorted(together.items(), key=lambda item: item[0])

    async def load(
        self,
        key: VersionKey,
        timeout_seconds: float | None,
        *,
        is_explicit: bool,
        lease_seconds: float = 0.0,
    ) -> ReadyModel:
        """Return a version that answers, loading it if need be.

        The load goes on when the caller's time is over, so that a later call finds it done.

        Args:
            key: The version.
            timeout_seconds: How long to wait; None for as long as a load may take.
            is_explicit: Try a failed version again now, not only after a while, and keep it.
            lease_seconds: How long to keep it then; 0 until it is unloaded.

        Raises:
            UnavailableError: MODEL_NOT_READY, if it is not ready in time.
            SetpointError: Why the load failed.
        """
        ready = self._ready.get(key)
        if ready is not None:
            if is_explicit:
                ready.hold.ask(lease_seconds, self._clock.monotonic())
            return ready
        attempt = self._attempts.get(key)
        if attempt is None or (attempt.error and self._may_retry(attempt, is_explicit)):
            attempt = self._start(key)
        if is_explicit:
            attempt.hold.ask(lease_seconds, self._clock.monotonic())
        try:
            async with asyncio.timeout(timeout_seconds):
                await attempt.ended.wait()
        except TimeoutError:
            raise version.not_ready(key, "it is still loading", RETRY_SECONDS) from None
        if attempt.error is not None:
            raise version.copied(attempt.error)
        ready = self._ready.get(key)
        if ready is None:
            raise version.not_ready(key, "it was dropped as soon as it was loaded", RETRY_SECONDS)
        return ready

    def renew(self, keys: Iterable[VersionKey], lease_seconds: float) -> list[VersionKey]:
        """Keep versions for another lease; return those that are not ready here."""
        now, lacking = self._clock.monotonic(), []
        for key in keys:
            ready = self._ready.get(key)
            if ready is None:
                lacking.append(key)
            else:
                ready.hold.ask(lease_seconds, now)
        return lacking

    def release(self) -> None:
        """Drop versions that were leased and that nobody has renewed or called since."""
        now = self._clock.monotonic()
        for key, ready in list(self._ready.items()):
            if ready.hold.is_over(now, ready.last_used):
                self._drop(key)
                self.counts.released += 1
                _LOGGER.info("dropped version %s, which nobody needs any more", key)

    async def close(self) -> None:
        """Let go of everything that runs outside this process; the server has stopped."""
        for ready in self._ready.values():
            if ready.is_remote:
                await cast("ports.Remote", ready.runner).close()
        self._ready.clear()

    async def unload(self, key: VersionKey) -> None:
        """Drop a version and wait until its running calls have ended.

        Raises:
            NotFoundError: It is not here.
        """
        attempt = self._attempts.get(key)
        if attempt is not None:
            await attempt.ended.wait()
        failed = self._attempts.pop(key, None)
        ready = self._ready.pop(key, None)
        if ready is not None:
            _LOGGER.info("unloaded version %s", key)
            await ready.close()
        elif failed is None:
            raise version.not_loaded(key)

    def _may_retry(self, attempt: Attempt, is_explicit: bool) -> bool:
        is_transient = isinstance(attempt.error, errors.UnavailableError)
        wait = RETRY_SECONDS if is_transient else RETRY_REFUSED_SECONDS
        return is_explicit or self._clock.monotonic() - attempt.failed_at >= wait

    def _start(self, key: VersionKey) -> Attempt:
        attempt = self._attempts[key] = Attempt(key)
        attempt.task = self._owner.start(f"load {key}", self._load(attempt))
        return attempt

    async def _load(self, attempt: Attempt) -> None:
        """Load a version; whatever happens ends as its state, not as a dead task."""
        key = attempt.key
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._limits.load_seconds):
                ready = await self._open(attempt)
        except asyncio.CancelledError:
            self._fail(attempt, version.not_ready(key, "the server is stopping"))
            raise
        except errors.SetpointError as error:
            self._fail(attempt, error)
        except TimeoutError:
            self._fail(attempt, version.not_ready(key, "loading took too long"))
        except Exception:
            _LOGGER.exception("loading version %s failed unexpectedly", key)
            reason = errors.Reason.INVALID_ARTIFACT
            self._fail(attempt, version.refused(key, reason, "the model cannot be opened"))
        else:
            del self._attempts[key]
            self._ready[key] = ready
            self.counts.loaded += 1
            self._evict(ready)
            _LOGGER.info("loaded version %s in %.3f s", key, self._clock.monotonic() - started)
        finally:
            attempt.ended.set()

    async def _open(self, attempt: Attempt) -> ReadyModel:
        manifest = attempt.manifest = await self._versions.manifest(attempt.key)
        self._check(manifest)
        data = await self._versions.artifact(manifest)
        try:
            if manifest.format is Format.ONNX:
                return await self._open_here(attempt, manifest, data)
            remote, measured = await opening.open_remote(
                self._backends[manifest.format], manifest, data
            )
        except refusal.RefusedError as error:
            raise version.refused(attempt.key, error.reason, error.message) from error
        memory_bytes = remote.memory_bytes()
        return self._opened(
            attempt, manifest, remote, measured, is_remote=True, memory_bytes=memory_bytes
        )

    async def _open_here(self, attempt: Attempt, manifest: Manifest, data: bytes) -> ReadyModel:
        found = await self._inspector.inspect(data, manifest.digest)
        signature.check(found, manifest.inputs, manifest.outputs)
        job = opening.Opening(self._engine, self._memory)
        try:
            runner, measured, memory_bytes = await self._workers.load(
                lambda: job.run(data, manifest, found)
            )
        finally:
            job.stop()
        return self._opened(
            attempt,
            manifest,
            runner,
            measured,
            has_loops=found.has_loops,
            memory_bytes=memory_bytes,
        )

    def _opened(
        self,
        attempt: Attempt,
        manifest: Manifest,
        runner: Runner | ports.Remote,
        measured: cost.Cost,
        *,
        has_loops: bool = False,
        is_remote: bool = False,
        memory_bytes: int = 0,
    ) -> ReadyModel:
        return ReadyModel(
            manifest,
            runner,
            measured,
            has_loops,
            is_remote,
            may_inline=not (has_loops or is_remote),
            ready_time=self._clock.now_us(),
            last_used=self._clock.monotonic(),
            memory_bytes=max(memory_bytes, manifest.size),
            hold=attempt.hold,
        )

    def _check(self, manifest: Manifest) -> None:
        if manifest.is_rejected:
            raise version.refused(manifest.key, errors.Reason.NOT_APPROVED, "it was rejected")
        if manifest.format is not Format.ONNX and manifest.format not in self._backends:
            raise version.refused(
                manifest.key,
                errors.Reason.EXECUTABLE_ARTIFACT
                if manifest.format is Format.SKOPS
                else errors.Reason.INVALID_ARTIFACT,
                f"its format {manifest.format.name} is not served here",
            )
        if manifest.size > self._max_artifact_bytes:
            raise version.refused(
                manifest.key,
                errors.Reason.TOO_LARGE,
                f"its artifact has {manifest.size} bytes; at most {self._max_artifact_bytes} are loaded",
            )

    def _fail(self, attempt: Attempt, error: errors.SetpointError) -> None:
        attempt.error = error
        attempt.failed_at = self._clock.monotonic()
        self.counts.failed += 1
        _LOGGER.warning("version %s cannot be loaded: %s", attempt.key, error)
        if isinstance(error, errors.NotFoundError):
            # Anybody can ask for versions that do not exist; the table must not grow by it.
            self._attempts.pop(attempt.key, None)
        failed = [key for key, each in self._attempts.items() if each.error is not None]
        for key in failed[:-MAX_FAILED]:
            del self._attempts[key]

    def _evict(self, newest: ReadyModel) -> None:
        """Drop versions until the others fit; their running calls finish.

        Those that a call brought go first, the ones unused for longest before the others. Pinned
        ones follow, since a limit that nobody can leave would refuse every new version.
        """
        total = sum(ready.memory_bytes for ready in self._ready.values())
        in_order = sorted(
            self._ready.items(), key=lambda item: (item[1].hold.is_by_name, item[1].last_used)
        )
        for key, ready in in_order:
            if total <= self._limits.max_loaded_bytes:
                return
            if ready is newest:
                continue
            self._drop(key)
            total -= ready.memory_bytes
            if ready.hold.is_by_name:
                self.counts.evicted_pinned += 1
                _LOGGER.warning("dropped version %s although it was loaded by name", key)
            else:
                self.counts.evicted += 1
                _LOGGER.info("dropped version %s, unused for longest", key)

    def _drop(self, key: VersionKey) -> None:
        """Take a version out of the table; its running calls finish."""
        ready = self._ready.pop(key)
        if ready.is_remote:
            # Owned by the owner, which waits for it at the end.
            _ = self._owner.start(f"close {key}", ready.close())
