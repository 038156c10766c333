"""What routes work with: the features' services, found by their type.

A feature's routes declare what they need in their signature:

    PoolsDep = Annotated[WarmPools, Depends(service(WarmPools))]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

T = TypeVar("T")


class Services:
    """The services of one app, one of each type; kept in `app.state.services`.

    Attributes:
        version: Of labd.
        closing: Set when the server stops, so that streams end by themselves.
    """

    def __init__(self, services: Iterable[object], *, version: str) -> None:
        self.version = version
        self.closing = asyncio.Event()
        self._found: dict[type, object] = {type(item): item for item in services}

    def get(self, kind: type[T]) -> T:
        """Return the service of a type.

        Raises:
            LookupError: There is none; a fault of the program.
        """
        found = self._found.get(kind)
        if not isinstance(found, kind):
            raise LookupError(f"the app was made without {kind.__name__}")
        return found


def services(connection: HTTPConnection) -> Services:
    """Return the services of the app that serves this connection."""
    found: Services = connection.app.state.services
    return found


def service(kind: type[T]) -> Callable[[HTTPConnection], T]:
    """Return a FastAPI dependency that provides the service of a type."""

    def provide(connection: HTTPConnection) -> T:
        return services(connection).get(kind)

    return provide


def attach(app: FastAPI, found: Services) -> None:
    """Give an app its services."""
    app.state.services = found


def _closing(connection: HTTPConnection) -> asyncio.Event:
    return services(connection).closing


def _version(connection: HTTPConnection) -> str:
    return services(connection).version


ClosingDep = Annotated[asyncio.Event, Depends(_closing)]
VersionDep = Annotated[str, Depends(_version)]
