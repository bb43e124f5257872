"""Creates and changes routes; answers for every revision there ever was."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from setpoint_router import ports
from setpoint_router.domain import assignment, combination, preview
from setpoint_router.domain.route import (
    AssignmentReason,
    Content,
    Route,
    ServedVersion,
    check_content,
    first_revision,
    next_revision,
)
from setpoint_router.service.book import RouteBook
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, names

MAX_PREVIEWED_KEYS = 10_000

CREATE = "CreateRoute"
UPDATE = "UpdateRoute"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a key gets, and why."""

    route: Route
    version: int
    slot: int
    reason: AssignmentReason
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """Who would move."""

    before: Route
    after: Route
    moved_keys: Sequence[preview.KeyMovement]


class RouteService:
    """Keeps routes; the data plane gets them through the book."""

    def __init__(
        self,
        *,
        store: ports.RouteStore,
        registry: ports.Registry,
        definitions: ports.FeatureDefinitions,
        inference: ports.Inference,
        book: RouteBook,
        clock: clocks.Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._definitions = definitions
        self._inference = inference
        self._book = book
        self._clock = clock

    async def create(
        self, request_id: str, fingerprint: bytes, content: Content
    ) -> ports.StoredRoute:
        """Create a route once its versions are known, approved and loaded.

        Raises:
            SetpointError: As the contract says.
        """
        check_content(content)
        replayed = await self._store.find_replay(request_id, CREATE, fingerprint)
        if replayed is not None:
            return ports.StoredRoute(replayed, is_replay=True)
        served = await self._resolve(content)
        route = first_revision(content, served, self._clock.now_us())
        stored = await self._store.create(request_id, fingerprint, route)
        self._book.put([stored.route])
        return stored

    async def update(
        self, request_id: str, fingerprint: bytes, content: Content, expected_revision: int
    ) -> ports.StoredRoute:
        """Make the next revision of a route.

        Raises:
            SetpointError: As the contract says.
        """
        check_content(content)
        replayed = await self._store.find_replay(request_id, UPDATE, fingerprint)
        if replayed is not None:
            return ports.StoredRoute(replayed, is_replay=True)
        # Refuses what cannot go well before anything is loaded for it.
        current = await self._store.get(content.name)
        next_revision(current, content, (), self._clock.now_us())
        served = await self._resolve(content)
        now_us = self._clock.now_us()
        stored = await self._store.append(
            request_id,
            fingerprint,
            content.name,
            expected_revision,
            lambda latest: next_revision(latest, content, served, now_us),
        )
        self._book.put([stored.route])
        return stored

    async def get(self, name: str, revision: int) -> Route:
        """Return a revision, the current one for 0.

        Raises:
            NotFoundError: There is no such route or revision.
        """
        if revision < 0:
            raise errors.invalid("revision", revision, "must not be negative")
        names.check_name("name", name)
        return await self._store.get(name, revision)

    async def list(self, after: str, size: int) -> Sequence[Route]:
        """Return a page of current revisions by name, one more than asked when there are more."""
        return await self._store.page(after, size + 1)

    async def list_revisions(self, name: str, before: int, size: int) -> Sequence[Route]:
        """Return a page of revisions, newest first, one more than asked when there are more.

        Raises:
            NotFoundError: There is no such route.
        """
        names.check_name("name", name)
        return await self._store.page_revisions(name, before, size + 1)

    async def explain(self, name: str, key: str, time_us: int) -> Explanation:
        """Say which version a key gets, now or at a time, and why.

        Raises:
            NotFoundError: There is no such route, or it was not in force at that time.
        """
        if time_us < 0:
            raise errors.invalid("time", time_us, "must not be negative")
        # The current revision is known here, also while the database is away.
        route = self._book.current(name)
        if route is None or (time_us and time_us < route.valid_from):
            names.check_name("route", name)
            now_us = time_us or self._clock.now_us()
            route = await self._store.in_force(name, now_us)
        choice = route.assign(key)
        return Explanation(route, *choice, _explained(route, key, *choice))

    async def preview(self, content: Content, keys: Sequence[str]) -> Preview:
        """Say who would move if a route were updated; nothing changes.

        Raises:
            InvalidArgumentError: The content does not continue the route, or the keys are too many.
            NotFoundError: There is no such route.
        """
        if len(keys) > MAX_PREVIEWED_KEYS:
            rule = f"must be at most {MAX_PREVIEWED_KEYS}"
            reason = errors.Reason.TOO_LARGE
            raise errors.invalid("assignment_keys", len(keys), rule, reason)
        check_content(content)
        before = await self._store.get(content.name)
        after = next_revision(before, content, (), self._clock.now_us())
        # Thousands of keys take tens of milliseconds, which predictions shall not wait for.
        moved = await asyncio.to_thread(preview.moved_keys, before, after, keys)
        return Preview(before, after, moved)

    async def _resolve(self, content: Content) -> tuple[ServedVersion, ...]:
        """Ask what the versions need, and have them loaded."""
        served = [await self._served(content.model, version) for version in content.versions]
        if content.ensemble is not None:
            combination.joint_version(content.ensemble, served)
        loads = [self._load(content.model, version) for version in content.versions]
        # To the end of each: none goes on behind the back of whoever asks again.
        for ended in await asyncio.gather(*loads, return_exceptions=True):
            if ended is not None:
                raise ended
        return tuple(served)

    async def _served(self, model: str, version: int) -> ServedVersion:
        registered = await self._registry.get_version(model, version)
        if not registered.is_approved:
            raise errors.FailedPreconditionError(
                errors.Reason.NOT_APPROVED,
                f"version {version} of {model} is not approved",
                metadata={"model": model, "version": str(version)},
            )
        if registered.feature_set is None:
            return ServedVersion(
                version=version,
                inputs=registered.inputs,
                outputs=registered.outputs,
                score_column=registered.score_column,
                input_tensors=registered.input_tensors,
                output_tensors=registered.output_tensors,
                substituted_inputs=registered.substituted_inputs,
            )
        definition = await self._definitions.get_feature_set(registered.feature_set)
        _check_inputs(model, registered, definition)
        return ServedVersion(
            version=version,
            inputs=registered.inputs,
            outputs=registered.outputs,
            feature_set=definition.feature_set,
            key_columns=definition.key_columns,
            features=definition.features,
            request_fields=definition.request_fields,
            sensitive_inputs=definition.sensitive,
            sent_request_fields=definition.sent_request_fields,
            score_column=registered.score_column,
            input_tensors=registered.input_tensors,
            output_tensors=registered.output_tensors,
            substituted_inputs=registered.substituted_inputs,
        )

    async def _load(self, model: str, version: int) -> None:
        try:
            await self._inference.load(model, version)
        except errors.SetpointError as error:
            raise errors.FailedPreconditionError(
                errors.Reason.MODEL_NOT_READY,
                f"inference cannot load version {version} of {model}: {error.message}",
                metadata={
                    "model": model,
                    "version": str(version),
                    "cause": error.reason.value,
                },
            ) from error


def _check_inputs(
    model: str, registered: ports.RegisteredVersion, definition: ports.FeatureSetDefinition
) -> None:
    """Refuse a version whose inputs its feature set does not have."""
    held = {each.name for each in (*definition.features, *definition.request_fields)}
    lacking = [each.name for each in registered.inputs if each.name not in held]
    if lacking:
        feature_set = definition.feature_set
        raise errors.FailedPreconditionError(
            errors.Reason.SIGNATURE_MISMATCH,
            f"version {registered.version} of {model} wants {', '.join(lacking[:5])}, which "
            f"version {feature_set.version[:12]} of feature set {feature_set.name} does not have",
        )


def _explained(route: Route, key: str, version: int, slot: int, reason: AssignmentReason) -> str:
    where = f"revision {route.revision} of route {route.name}"
    if reason is AssignmentReason.OVERRIDE:
        return f"{where} has an override of this key for version {version}"
    layer, part = route.content.layer, ""
    if layer is not None:
        layer_slot = layer.slot_of(key)
        mine = f"{layer.first_slot} to {layer.end_slot - 1}"
        if reason is AssignmentReason.LAYER:
            return (
                f"xxh3_64({layer.salt}, key) mod {assignment.SLOTS} is {layer_slot}; {where} has "
                f"slots {mine} of layer {layer.name}, outside of which version {version} serves"
            )
        part = f"slot {layer_slot} of layer {layer.name} is among {mine}, so the key takes part; "
    if (ensemble := route.content.ensemble) is not None:
        members = ", ".join(str(each.version) for each in ensemble.members)
        return (
            f"{part}{where} has an ensemble for every key: the {ensemble.combination.name} of versions "
            f"{members}, of which {ensemble.quorum} must answer"
        )
    share = int((route.slots == version).sum())
    return (
        f"{part}xxh3_64(salt, key) mod {assignment.SLOTS} is {slot}; in {where} slot {slot} "
        f"belongs to version {version}, which has {share} of {assignment.SLOTS} slots"
    )
