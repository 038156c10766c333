"""The real API on real unix sockets in a thread of its own, with the fake engine behind it."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from labd.api import Caller, create_app, serving
from labd.api.server import serving_tcp
from labd.features.connect.socket import ConnectSocket
from labd.host.config_people import ApiConfig
from tests.unit.fake_engine import FakeEngine, FakeTemplates

T = TypeVar("T")

TOKENS = {
    "good": Caller(name="plugin watchdog", scopes=frozenset({"labs:control", "events:read"})),
    "blind": Caller(name="plugin blind"),
}


class Server:
    """A running API; `root` has its sockets as a daemon's root has."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop, engine: FakeEngine) -> None:
        self.root = root
        self.loop = loop
        self.engine = engine
        self.socket = str(root / "run" / "api.sock")
        self.plugin_socket = str(root / "run" / "plugin.sock")
        self.people_socket = str(root / "run" / "people.sock")
        self.stopping = asyncio.Event()
        self.thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def stop(self) -> None:
        """Stop it and wait for its end."""
        assert self.thread is not None
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(10)
        assert not self.thread.is_alive()


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    return listener


@contextmanager
def api_server(tcp: ApiConfig | None = None) -> Iterator[Server]:
    """Start a server, with `tcp` also there, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="labd-api-") as folder:
        root = Path(folder)
        (root / "run").mkdir()
        started = threading.Event()
        made: list[Server] = []

        async def main() -> None:
            server = Server(root, asyncio.get_running_loop(), FakeEngine())
            made.append(server)
            app = create_app(
                server.engine,
                FakeTemplates(),
                version="9.9.9",
                tokens=TOKENS.get,
                admin_socket=Path(server.socket),
            )
            listener = _bind(str(root / "run" / "connect.sock"))
            ways = ConnectSocket(server.engine.connect, server.engine.access, listener)
            paths = (server.socket, server.plugin_socket, server.people_socket)
            sockets = [_bind(path) for path in paths]
            async with ways, serving(app, sockets), serving_tcp(app, tcp or ApiConfig()):
                started.set()
                await server.stopping.wait()

        thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        thread.start()
        assert started.wait(10)
        (server,) = made
        server.thread = thread
        try:
            yield server
        finally:
            if thread.is_alive():
                server.stop()
