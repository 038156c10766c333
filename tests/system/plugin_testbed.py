"""What plugins see of labd, made of real parts: a broker, the API, the supervisor, the engine.

Only the engine's ports are fakes. All folders are closed to users other than root, as a checkout
below /root is.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from labd.api.app import AppSettings
from labd.api.callers import Caller
from labd.api.server import serving
from labd.events.broker import ManagedBroker
from labd.events.messages import Topics
from labd.events.mqtt import Connection, MqttError, connect
from labd.features.app import make_app
from labd.features.plugins.supervisor import Supervisor, SupervisorConfig
from labd.features.templates.shipped import ShippedTemplates
from labd.model.events import Event, EventDraft, EventType
from labd.model.machine import GuestEventKind
from labd.model.names import NodeRef
from labd.model.plugins import PluginChange
from labd.model.records import OperationKind
from labd.model.specs import RestartPolicy
from labd.model.states import NodeState
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec
from tests.system.brokers import cancelled, running_broker, short_folder

HOST = "00000000"
UID = 2_099_990_000
REPO = Path(__file__).resolve().parents[2]
PRELUDE = "from labd.plugin import Client, Event, Plugin, PluginError\nplugin = Plugin()\n"


class PluginTestbed:
    """A running testbed; `lost` are the events that the broker swallows.

    Its clocks stand still, but those of its plugins go on.
    """

    clock: Clock

    def __init__(self, root: Path, broker: ManagedBroker, daemon: FakeDaemon) -> None:
        self.root, self.broker, self.daemon = root, broker, daemon
        self.engine = daemon.engine
        self.lost: set[int] = set()
        self.published = 0
        self.changes: list[PluginChange] = []
        self.supervisor = self.new_supervisor()

    def new_supervisor(self, **changes: object) -> Supervisor:
        around = SupervisorConfig(
            folders=(self.root / "plugins", REPO / "plugins"),
            state=self.root / "state",
            socket=self.root / "run" / "plugin.sock",
            host_id=HOST,
            broker=self.broker.plugin_address,
            set_users=self.broker.set_users,
        )
        made = Supervisor(replace(around, **changes))  # type: ignore[arg-type]
        made.listen(self.changes.append)
        return made

    def add(self, name: str, files: Mapping[str, str], manifest: str = "") -> Path:
        """Install a plugin."""
        folder = self.root / "plugins" / name
        folder.mkdir(parents=True)
        scopes = "" if "scopes" in manifest else 'scopes = ["labs:control", "events:read"]\n'
        (folder / "plugin.toml").write_text(f'name = "{name}"\n{scopes}{manifest}')
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    def python(self, name: str, code: str, manifest: str = "") -> Path:
        """Install a plugin in Python."""
        return self.add(name, {"plugin.py": f"{PRELUDE}{code}\nplugin.run()\n"}, manifest)

    async def start(self, name: str, uid: int = UID, /, **settings: object) -> None:
        """Check the settings and start a plugin, as the engine does."""
        checked = self.supervisor.check_settings(name, settings)
        await self.supervisor.start(name, checked, uid)

    async def hears(self, name: str) -> None:
        """Wait until a plugin has begun to hear."""
        await self.says(name, f"{name} hears events after")

    def said(self, name: str) -> str:
        """Return what a plugin has said."""
        return self.supervisor.log(name).decode(errors="replace")

    async def says(self, name: str, text: str, seconds: float = 15) -> None:
        """Wait until a plugin has said something."""
        await self.until(
            lambda: text in self.said(name),
            lambda: f"{name} says {text!r}; it said: {self.said(name)[-3000:]}",
            seconds,
        )

    async def until(
        self,
        seen: Callable[[], bool | Awaitable[bool]],
        what: str | Callable[[], str],
        seconds: float = 15,
    ) -> None:
        """Wait until something holds."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            found = seen()
            if found is True or (inspect.isawaitable(found) and await found):
                return
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"not seen: {what if isinstance(what, str) else what()}")
            await asyncio.sleep(0.02)

    def pid(self, name: str) -> int:
        """Return the pid of a plugin's process."""
        child = self.supervisor._running[name].child
        assert child is not None
        return child.pid

    async def tell(
        self, kind: EventType = EventType.NODE_RESET, lab: str = "web", **data: object
    ) -> int:
        """Tell that something has happened; return its seq."""
        async with self.daemon.inventory.transaction() as tx:
            event = await tx.emit(EventDraft(type=kind, lab=lab, node="a", data=data))
        return event.seq

    async def up(self, policy: RestartPolicy, lab: str = "web") -> None:
        """Have a lab with a node `a`, and `b` without a policy, and nothing under way."""
        await self.daemon.up(spec(node("a", restart=policy), node("b")), lab)

    async def fails(self, state: NodeState = NodeState.CRASHED, lab: str = "web") -> None:
        """Have the node `a` of a lab fail."""
        host, key = self.daemon.host, await self.daemon.key("a", lab)
        match state:
            case NodeState.CRASHED:
                host.die(key)
            case NodeState.PANICKED:
                host.panic(key)
            case NodeState.UNRESPONSIVE:
                host.hang(key)
                host.emit(key, GuestEventKind.UNRESPONSIVE)
            case NodeState.STOPPED:
                host.power_off(key)
        await self.daemon.until("a", state, lab=lab)

    async def act(self, kind: OperationKind, *nodes: str, lab: str = "web") -> None:
        """Do something to nodes, and wait for its end."""
        await self.daemon.ok(self.engine.labs.act(kind, lab, nodes))

    async def is_in(self, state: NodeState, lab: str = "web") -> bool:
        """Tell whether the node `a` of a lab is in a state."""
        return (await self.engine.console.node(NodeRef(lab, "a"))).state is state

    async def asked(self, *kinds: OperationKind) -> int:
        """Return how many operations of some kinds were asked for."""
        found = await self.daemon.inventory.operations(limit=1000)
        return sum(operation.kind in kinds for operation in found)

    async def happened(self, *kinds: EventType) -> list[Event]:
        """Return the events of some kinds."""
        events = await self.daemon.inventory.events(0, 10_000)
        return [event for event in events if event.draft.type in kinds]

    async def publish(self) -> None:
        """Publish what happens, for ever, but for what is lost."""
        while True:
            with suppress(ExceptionGroup, MqttError):
                async with (
                    connect(self.broker.address, identifier="labd-test") as connection,
                    asyncio.TaskGroup() as tasks,
                ):
                    tasks.create_task(connection.lost())
                    tasks.create_task(self._deliver(connection))
            await asyncio.sleep(0.05)

    async def _deliver(self, connection: Connection) -> None:
        while True:
            await self.engine.events.wait(self.published)
            for event in await self.engine.events.after(self.published, 500):
                if event.seq not in self.lost:
                    topic = Topics(HOST).events(event.draft.lab)
                    await connection.deliver(topic, json.dumps(event.cloudevent()).encode())
                self.published = event.seq


@asynccontextmanager
async def testbed() -> AsyncIterator[PluginTestbed]:
    """Yield a testbed, and end all of it."""
    with short_folder() as root:
        (root / "run").mkdir()
        (root / "state").mkdir(mode=0o711)
        clock = Clock()
        async with (
            running_broker(root) as broker,
            engine_over_fakes(root / "world", moment=clock, keep_events=3) as daemon,
        ):
            daemon.made_up = True
            made = PluginTestbed(root, broker, daemon)
            made.clock = clock

            def check(token: str, /) -> Caller | None:
                found = made.supervisor.caller(token)
                return None if found is None else Caller(name=f"plugin {found[0]}", scopes=found[1])

            settings = AppSettings(
                version="1", tokens=check, admin_socket=root / "run" / "api.sock"
            )
            app = make_app(made.engine, ShippedTemplates(None), settings)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(root / "run" / "plugin.sock"))
            os.chmod(root / "run" / "plugin.sock", 0o666)
            publisher = asyncio.create_task(made.publish())
            async with serving(app, [listener]):
                try:
                    yield made
                finally:
                    await made.supervisor.close()
                    await cancelled(publisher)
        shutil.rmtree(root / "state")
