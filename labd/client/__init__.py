"""The typed client of labd's API: `Client` for scripts and `lab`, `AsyncClient` for plugins.

    from labd.client import Client

    lab = Client()                       # $LABD_SOCKET, else $LABD_ROOT, else the system's labd
    for found in lab.labs():
        print(found["name"], found["state"])

Every call raises subclasses of `labd.model.errors.LabdError`, the same that the daemon raised, or
`DaemonUnreachable`. Only the standard library is imported, because `lab` has to start quickly.
"""

from __future__ import annotations

from labd.client.client import Client
from labd.client.places import default_place as default_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.aio import AsyncClient

__all__ = ["AsyncClient", "Client", "default_socket"]


def __getattr__(name: str) -> object:
    """Import `AsyncClient` when it is asked for: asyncio alone would cost `lab` 40 ms."""
    if name == "AsyncClient":
        from labd.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
