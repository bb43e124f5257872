"""The routes that the data plane serves by, swapped whole, never waited for."""

import asyncio
from collections.abc import Callable, Iterable

from setpoint_router.domain.plan import ServingRoute, serving_route
from setpoint_router.domain.route import Route
from setpoint_runtime import errors


def route_not_found(name: str) -> errors.NotFoundError:
    """Returns the error for a route that does not exist."""
    return errors.NotFoundError(
        errors.Reason.ROUTE_NOT_FOUND,
        f'there is no route "{name[:100]}"',
        metadata={"route": name[:100]},
    )


class RouteBook:
    """The current revision of every route."""

    def __init__(self) -> None:
        self._routes: dict[str, ServingRoute] = {}
        self._listeners: list[Callable[[], None]] = []
        self.loaded = asyncio.Event()
        """Set once the routes are known, from wherever."""

    def serving(self, name: str) -> ServingRoute:
        """Return a route made ready.

        Raises:
            NotFoundError: There is none of that name.
        """
        found = self._routes.get(name)
        if found is None:
            raise route_not_found(name)
        return found

    def current(self, name: str) -> Route | None:
        """Return the current revision of a route, None when it is not known here."""
        found = self._routes.get(name)
        return None if found is None else found.route

    def all(self) -> list[Route]:
        """Return the current revisions by name."""
        return [self._routes[name].route for name in sorted(self._routes)]

    def serving_routes(self) -> list[ServingRoute]:
        """Return all routes made ready."""
        return list(self._routes.values())

    def versions(self) -> list[tuple[str, int]]:
        """Return model and version of everything that may be asked, shadows among it."""
        return [
            (each.route.content.model, version.version)
            for each in self._routes.values()
            for version in each.route.served
        ]

    def revisions(self) -> dict[str, int]:
        """Return the number of the current revision of every route."""
        return {name: each.route.revision for name, each in self._routes.items()}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call somebody after each change."""
        self._listeners.append(listener)

    def put(self, routes: Iterable[Route]) -> bool:
        """Bring revisions into force that are newer than what is there; say whether any was."""
        changed = dict(self._routes)
        for route in routes:
            known = changed.get(route.name)
            if known is None or known.route.revision < route.revision:
                changed[route.name] = serving_route(route)
        is_changed = changed != self._routes
        # One assignment: a request sees the old routes or the new ones.
        self._routes = changed
        self.loaded.set()
        if is_changed:
            for listener in self._listeners:
                listener()
        return is_changed
