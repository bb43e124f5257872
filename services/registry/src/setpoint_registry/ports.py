"""What the registry needs from outside: a store of facts, a folder of bytes, a look into artifacts."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from setpoint_artifacts.signature import Signature, TensorSpec
from setpoint_registry import domain


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a mutating call safe to repeat."""

    request_id: str
    fingerprint: bytes


class ManifestDraft(Protocol):
    """A manifest that passed its checks, before the registry adds the artifact's size."""

    @property
    def artifact_digest(self) -> str:
        """The artifact it is about."""

    @property
    def artifact_format(self) -> domain.ArtifactFormat:
        """The format it says the artifact has."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The tensors that go in."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The tensors that are served."""

    @property
    def parents(self) -> Sequence[domain.VersionKey]:
        """The versions it says it descends from."""

    def sealed(self, artifact_size: int) -> bytes:
        """Return the bytes of the finished manifest, the same ones for the same content."""


class Store(Protocol):
    """Facts, each written in one transaction.

    Methods that take a `Request` do their work once per request id, and say whether this call
    was a repetition.
    """

    async def create_model(
        self, request: Request, model: domain.Model
    ) -> tuple[domain.Model, bool]:
        """Add a model. Raises AlreadyExistsError (NAME_TAKEN)."""

    async def get_model(self, name: str) -> domain.Model:
        """Return a model. Raises NotFoundError."""

    async def list_models(self, after: str, limit: int) -> list[domain.Model]:
        """Return models by name, those after one."""

    async def add_artifact(self, artifact: domain.Artifact) -> bool:
        """Remember a stored artifact; say whether it was remembered before."""

    async def get_artifact(self, digest: str) -> domain.Artifact:
        """Return an artifact. Raises NotFoundError."""

    async def create_version(
        self,
        request: Request,
        model: str,
        manifest: bytes,
        artifact_digest: str,
        parents: Sequence[domain.VersionKey],
        now: int,
    ) -> tuple[domain.ModelVersion, bool]:
        """Add the next version. Raises NotFoundError, InvalidArgumentError for unknown parents."""

    async def get_version(self, key: domain.VersionKey) -> domain.ModelVersion:
        """Return a version. Raises NotFoundError."""

    async def list_versions(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.ModelVersion]:
        """Return versions, newest first, those before one."""

    async def set_alias(
        self, request: Request, move: domain.Alias, now: int
    ) -> tuple[domain.Alias, bool]:
        """Add an event of an alias. Raises what `domain.settled` raises, NotFoundError."""

    async def get_alias(self, model: str, alias: str, time: int) -> domain.Alias:
        """Return the event in force, at the latest or at a time. Raises NotFoundError."""

    async def list_alias_events(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Alias]:
        """Return events of all aliases, newest first."""

    async def decide(
        self, request: Request, approval: domain.Approval
    ) -> tuple[domain.Approval, bool]:
        """Add a decision. Raises what `domain.check_decision` raises, NotFoundError."""

    async def list_approvals(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Approval]:
        """Return decisions, newest first."""


class Incoming(Protocol):
    """Bytes of an upload that nobody else can see yet."""

    async def write(self, data: bytes) -> None:
        """Append bytes."""

    async def digest(self) -> str:
        """Return the sha256 of what was written."""

    async def inspect(self, format: domain.ArtifactFormat) -> Signature:
        """Check the bytes as a format. Raises setpoint_artifacts' RefusedError."""

    async def keep(self) -> None:
        """Make the bytes an artifact under their digest, all at once."""


class Artifacts(Protocol):
    """Artifact bytes by digest."""

    def receive(self) -> AbstractAsyncContextManager[Incoming]:
        """Return a place for an upload; what was not kept by the end is gone."""

    async def exists(self, digest: str) -> bool:
        """Say whether bytes are stored under a digest."""

    def read(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in pieces; the last one only if all of them have the digest.

        Raises NotFoundError, DataLossError.
        """
