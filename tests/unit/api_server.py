"""The real API on real unix sockets in a thread of its own, with the real engine over fakes."""

from __future__ import annotations

import asyncio
import functools
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from labd.api.app import AppSettings
from labd.api.callers import Caller
from labd.api.server import serving, serving_tcp
from labd.features.app import make_app
from labd.features.connect.socket import ConnectSocket
from labd.features.plugins.manifest import read
from labd.host.config_people import ApiConfig
from tests.fakes.connect import EchoingGuest
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.templates import hello_only

T = TypeVar("T")

TOKENS = {
    "good": Caller(name="plugin watchdog", scopes=frozenset({"labs:control", "events:read"})),
    "blind": Caller(name="plugin blind"),
}
BOOT = b"booting\r\nlabd: ready\r\n"  # what each guest says
PLUGIN = """\
name = "watchdog"
version = "1.0"
description = "starts nodes again"
events = ["node.*"]
scopes = ["labs:control"]
[settings.patience]
type = "integer"
default = 1
[settings.limit]
type = "integer"
default = 1
[settings.secret]
type = "string"
default = ""
"""
ACCEL = {"accel": "kvm", "accel_cpu": "host,migratable=on"}
BROKER = {
    "mode": "managed",
    "host": "127.0.0.1",
    "port": 1883,
    "username": "reader",
    "password_file": "/run/labd/broker.password",
    "connected": False,
    "problem": "refused",
}


class Server:
    """A running API; `root` has its sockets as a daemon's root has."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop, daemon: FakeDaemon) -> None:
        self.root = root
        self.loop = loop
        self.daemon = daemon
        self.engine = daemon.engine
        self.socket = str(root / "run" / "api.sock")
        self.plugin_socket = str(root / "run" / "plugin.sock")
        self.people_socket = str(root / "run" / "people.sock")
        self.stopping = asyncio.Event()
        self.thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something in the server's loop."""

        async def work() -> T:
            return function(*args)

        return self.run(work())

    def hold_boots(self) -> None:
        """Have no guest say anything from now on, until `release_boots`."""
        self.daemon.host.boot_output = b""

    def release_boots(self) -> None:
        """Have every guest say what it says when it has booted."""
        host = self.daemon.host
        host.boot_output = BOOT
        for key in list(host.machines):
            self.call(host.say, key, BOOT)

    def key(self, node: str, lab: str = "web") -> str:
        """Return the key of a node's machine."""
        return self.run(self.daemon.key(node, lab))

    def story(self) -> list[tuple[str, str]]:
        """Return type and lab of all events but those that tell of requests."""
        events = self.run(self.daemon.inventory.events(0, 10_000))
        told = [(str(event.draft.type), event.draft.lab) for event in events]
        return [item for item in told if item[0] != "audit.request"]

    def stop(self) -> None:
        """Stop it in the middle of its work, and wait for its end."""
        self.daemon.at_rest = False
        self._end()

    def close(self) -> None:
        """Stop it when its work is done, with a look at whether all fits together."""
        if self.thread is not None and self.thread.is_alive():
            self._end()

    def _end(self) -> None:
        assert self.thread is not None
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(60)
        assert not self.thread.is_alive()


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    return listener


async def furnish(daemon: FakeDaemon, root: Path) -> None:
    """Have an image `tiny` whose guests are ready at once, and a plugin `watchdog`."""
    daemon.host.boot_output = BOOT
    daemon.host.opens_agent = True
    daemon.links.netem = True
    daemon.dialer.listening = {("10.0.0.1", 22), ("10.0.0.1", 80)}
    daemon.dialer.guest = EchoingGuest()
    daemon.info = {"host_id": "00000000", "pid": 1, "broker": BROKER, **ACCEL}
    daemon.findings = [{"name": "kvm", "level": "ok", "text": "works", "advice": ""}]
    image = await daemon.images.build("tiny", "tiny", lambda _: None)
    async with daemon.inventory.transaction() as tx:
        await tx.delete_image("disk")
        await tx.put_image(replace(image, ready_pattern="^labd: ready", source="recipe tiny"))
    plugin = root / "watchdog"
    plugin.mkdir()
    (plugin / "plugin.toml").write_text(PLUGIN)
    (plugin / "plugin.py").write_text("")
    daemon.plugins.plugins.clear()
    daemon.plugins.install(read(plugin))
    await daemon.engine.plugins.start()


@contextmanager
def api_server(tcp: ApiConfig | None = None, **how: Any) -> Iterator[Server]:
    """Start a server, with `tcp` also there, and stop it at the end.

    Args:
        tcp: Where it listens besides its sockets.
        how: For `engine_over_fakes`.
    """
    with tempfile.TemporaryDirectory(prefix="labd-api-") as folder:
        root = Path(folder)
        (root / "run").mkdir()
        started = threading.Event()
        made: list[Server] = []
        wrong: list[BaseException] = []

        async def main() -> None:
            async with engine_over_fakes(root / "world", **how) as daemon:
                await furnish(daemon, root)
                server = Server(root, asyncio.get_running_loop(), daemon)
                made.append(server)
                settings = AppSettings(
                    version="9.9.9", tokens=TOKENS.get, admin_socket=Path(server.socket)
                )
                app = make_app(server.engine, hello_only(root), settings)
                listener = _bind(str(root / "run" / "connect.sock"))
                ways = ConnectSocket(server.engine.connect, server.engine.access, listener)
                paths = (server.socket, server.plugin_socket, server.people_socket)
                sockets = [_bind(path) for path in paths]
                async with ways, serving(app, sockets), serving_tcp(app, tcp or ApiConfig()):
                    started.set()
                    await server.stopping.wait()

        def work() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:  # noqa: BLE001 - it is raised again by the test's thread
                wrong.append(error)
                started.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert started.wait(60)
        try:
            if made:
                made[0].thread = thread
                yield made[0]
        finally:
            if made:
                made[0].close()
            if wrong:
                raise wrong[0]


@functools.cache
def openapi() -> dict[str, Any]:
    """Return the OpenAPI document as a server gives it out."""
    with api_server() as server:
        transport = httpx.HTTPTransport(uds=server.socket)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=120) as http:
            document: dict[str, Any] = http.get("/openapi.json").json()
    return document
