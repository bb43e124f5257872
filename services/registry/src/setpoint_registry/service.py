"""The use cases of the registry."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection

from setpoint_artifacts import digest as digests
from setpoint_artifacts import formats, refusal, signature
from setpoint_registry import domain, ports
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids, names


class RegistryService:
    """Decides what gets in, and keeps what is decided."""

    def __init__(
        self,
        store: ports.Store,
        artifacts: ports.Artifacts,
        clock: clocks.Clock,
        *,
        max_artifact_bytes: int,
        max_uploads: int,
        taken_formats: Collection[domain.ArtifactFormat] = (domain.ArtifactFormat.ONNX,),
    ) -> None:
        """Connect the parts.

        Args:
            store: The facts.
            artifacts: The bytes.
            clock: The time of what callers leave to the service.
            max_artifact_bytes: Largest artifact that is taken.
            max_uploads: Uploads received at once.
            taken_formats: Formats that may be uploaded.
        """
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._max_artifact_bytes = max_artifact_bytes
        self._max_uploads = max_uploads
        self._taken_formats = taken_formats
        self._uploads = 0
        # Reading a model into memory takes several times its size, so one at a time.
        self._inspecting = asyncio.Lock()

    async def create_model(
        self, request: ports.Request, model: domain.Model
    ) -> tuple[domain.Model, bool]:
        """Create a model; the flag says that the request was seen before."""
        names.check_name("model.name", model.name)
        domain.check_text("model.description", model.description, domain.MAX_TEXT_LENGTH)
        domain.check_text("model.owner", model.owner, domain.MAX_LABEL_LENGTH)
        made = domain.Model(
            model.name, model.task, model.description, model.owner, self._clock.now_us()
        )
        return await self._store.create_model(request, made)

    async def get_model(self, name: str) -> domain.Model:
        """Return a model."""
        return await self._store.get_model(names.check_name("name", name))

    async def list_models(self, after: str, limit: int) -> list[domain.Model]:
        """Return models by name, those after one."""
        return await self._store.list_models(after, limit)

    async def upload(
        self, header: domain.ArtifactHeader, pieces: AsyncIterator[bytes]
    ) -> tuple[domain.Artifact, bool]:
        """Take an artifact in; the flag says that the same bytes were stored before.

        Nothing of it is to be seen anywhere until every check has passed.

        Raises:
            InvalidArgumentError: EXECUTABLE_ARTIFACT, INVALID_ARTIFACT, DIGEST_MISMATCH,
                TOO_LARGE, or a wrong header.
            ResourceExhaustedError: OVERLOADED, if too many uploads run already.
        """
        self._check_header(header)
        if self._uploads >= self._max_uploads:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED, "too many uploads at once", retry_after_seconds=1.0
            )
        self._uploads += 1
        try:
            async with self._artifacts.receive() as incoming:
                await self._receive(header, pieces, incoming)
                async with self._inspecting:
                    found = await incoming.inspect(header.format)
                await incoming.keep()
        except refusal.RefusedError as error:
            raise errors.InvalidArgumentError(
                error.reason, error.message, metadata={"digest": header.digest}
            ) from error
        finally:
            self._uploads -= 1
        artifact = domain.Artifact(
            header.digest, header.size, header.format, found, self._clock.now_us()
        )
        return artifact, await self._store.add_artifact(artifact)

    def _check_header(self, header: domain.ArtifactHeader) -> None:
        if not digests.is_digest(header.digest):
            raise errors.invalid(
                "header.digest", header.digest, "must be a sha256 in lower-case hexadecimal"
            )
        if header.format not in self._taken_formats:
            taken = ", ".join(each.name for each in self._taken_formats)
            raise errors.invalid(
                "header.format", header.format.name, f"must be one that is taken here: {taken}"
            )
        if header.size <= 0:
            raise errors.invalid("header.size", header.size, "must be at least 1")
        if header.size > self._max_artifact_bytes:
            raise errors.invalid(
                "header.size",
                header.size,
                f"must be at most {self._max_artifact_bytes}",
                errors.Reason.TOO_LARGE,
            )

    async def _receive(
        self,
        header: domain.ArtifactHeader,
        pieces: AsyncIterator[bytes],
        incoming: ports.Incoming,
    ) -> None:
        """Write the pieces down; refuse by name as soon as the beginning is there."""
        head = bytearray()
        # The others look like what is refused; their own inspection follows.
        is_recognised = header.format is not domain.ArtifactFormat.ONNX
        received = 0
        async for piece in pieces:
            received += len(piece)
            if not is_recognised:
                head += piece[: formats.HEAD_BYTES]
                if len(head) >= formats.HEAD_BYTES:
                    formats.refuse_unserved(bytes(head))
                    is_recognised = True
            if received > header.size:
                break
            await incoming.write(piece)
        # A wrong format says more than a wrong digest.
        if header.format is domain.ArtifactFormat.ONNX:
            formats.refuse_unserved(bytes(head))
        if received != header.size:
            more = "more than" if received > header.size else f"{received} bytes, not"
            raise _mismatch(f"the artifact has {more} the announced {header.size} bytes")
        found = await incoming.digest()
        if found != header.digest:
            raise _mismatch(f"the artifact has the digest {found}, not {header.digest}")

    async def download(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield an artifact in pieces."""
        if not digests.is_digest(digest):
            raise errors.invalid("digest", digest, "must be a sha256 in lower-case hexadecimal")
        await self._store.get_artifact(digest)
        async with contextlib.aclosing(self._artifacts.read(digest)) as pieces:
            async for piece in pieces:
                yield piece

    async def create_version(
        self, request: ports.Request, model: str, draft: ports.ManifestDraft
    ) -> tuple[domain.ModelVersion, bool]:
        """Create the next version of a model.

        Raises:
            FailedPreconditionError: ARTIFACT_NOT_FOUND, SIGNATURE_MISMATCH.
            NotFoundError: MODEL_NOT_FOUND.
        """
        names.check_name("model", model)
        artifact = await self._stored_artifact(draft.artifact_digest)
        if artifact.format is not draft.artifact_format:
            raise errors.invalid(
                "manifest.format", draft.artifact_format.name, f"must be {artifact.format.name}"
            )
        try:
            # What takes and gives what, only those who run the others can say.
            if artifact.format is domain.ArtifactFormat.ONNX:
                signature.check(artifact.signature, draft.inputs, draft.outputs)
        except refusal.RefusedError as error:
            raise errors.FailedPreconditionError(error.reason, error.message) from error
        return await self._store.create_version(
            request,
            model,
            draft.sealed(artifact.size),
            artifact.digest,
            draft.parents,
            self._clock.now_us(),
        )

    async def _stored_artifact(self, digest: str) -> domain.Artifact:
        try:
            artifact = await self._store.get_artifact(digest)
            if not await self._artifacts.exists(digest):
                raise domain.artifact_not_found(digest)
        except errors.NotFoundError as error:
            raise errors.FailedPreconditionError(
                error.reason, f"{error.message}; upload it first", metadata=error.metadata
            ) from error
        return artifact

    async def get_version(self, key: domain.VersionKey) -> domain.ModelVersion:
        """Return a version."""
        names.check_name("model_version.model", key.model)
        return await self._store.get_version(key)

    async def list_versions(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.ModelVersion]:
        """Return versions, newest first, those before one."""
        names.check_name("model", model)
        return await self._store.list_versions(model, before, limit)

    async def set_alias(
        self, request: ports.Request, move: domain.Alias
    ) -> tuple[domain.Alias, bool]:
        """Point an alias at a version; without a time, from now on."""
        names.check_name("model", move.model)
        names.check_name("alias", move.alias)
        if move.valid_from < 0:
            raise errors.invalid("valid_from", move.valid_from, "must be at least 0")
        domain.check_text("actor", move.actor, domain.MAX_LABEL_LENGTH, is_required=True)
        domain.check_text("reason", move.reason, domain.MAX_TEXT_LENGTH)
        return await self._store.set_alias(request, move, self._clock.now_us())

    async def get_alias(self, model: str, alias: str, time: int) -> domain.Alias:
        """Return where an alias points, at the latest or at a time."""
        names.check_name("model", model)
        names.check_name("alias", alias)
        if time < 0:
            raise errors.invalid("time", time, "must be at least 0")
        return await self._store.get_alias(model, alias, time)

    async def list_alias_events(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Alias]:
        """Return events of all aliases of a model, newest first."""
        names.check_name("model", model)
        return await self._store.list_alias_events(model, before, limit)

    async def decide(
        self,
        request: ports.Request,
        key: domain.VersionKey,
        manifest_digest: str,
        decision: domain.ApprovalState,
        approver: str,
        comment: str,
    ) -> tuple[domain.Approval, bool]:
        """Approve or reject a version, once and for all."""
        names.check_name("model_version.model", key.model)
        if not manifest_digest:
            raise errors.invalid(
                "manifest_digest", manifest_digest, "must be given", errors.Reason.MISSING_FIELD
            )
        domain.check_text("approver", approver, domain.MAX_LABEL_LENGTH, is_required=True)
        domain.check_text("comment", comment, domain.MAX_TEXT_LENGTH)
        now = self._clock.now_us()
        approval = domain.Approval(
            ids.uuid7(now), key, manifest_digest, decision, approver, comment, now
        )
        return await self._store.decide(request, approval)

    async def list_approvals(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Approval]:
        """Return decisions about a model's versions, newest first."""
        names.check_name("model", model)
        return await self._store.list_approvals(model, before, limit)


def _mismatch(message: str) -> refusal.RefusedError:
    return refusal.RefusedError(errors.Reason.DIGEST_MISMATCH, message)
