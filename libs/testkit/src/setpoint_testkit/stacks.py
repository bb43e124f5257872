"""Whole stacks for end-to-end tests: real processes, free ports, a folder of their own."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Protocol

from setpoint_devstack import catalogue, stack


class MakeStack(Protocol):
    """The type of the `make_stack` fixture."""

    def __call__(
        self,
        services: Iterable[str | catalogue.Service] | None = None,
        *,
        replicas: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        directory: pathlib.Path | None = None,
        restart: bool = False,
    ) -> contextlib.AbstractAsyncContextManager[stack.Stack]:
        """Runs a stack for the length of a block."""


class Stacks:
    """Makes stacks below the folder of a test run.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def __call__(
        self,
        services: Iterable[str | catalogue.Service] | None = None,
        *,
        replicas: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        directory: pathlib.Path | None = None,
        restart: bool = False,
    ) -> stack.Stack:
        """Returns a stack to be entered with `async with`.

        Args:
            services: names or descriptions of the services to run; all by default.
            replicas: how many there are of a service, by its name.
            environment: variables for all services.
            directory: where its state is kept; a new folder by default.
            restart: start a service again when it dies.
        """
        if directory is None:
            directory = pathlib.Path(tempfile.mkdtemp(prefix="stack-", dir=self._folder))
            directory.chmod(0o755)
        return stack.Stack(
            directory,
            services,
            replicas=replicas,
            default_ports=False,
            environment=environment,
            restart=restart,
        )
