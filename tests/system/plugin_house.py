"""What plugins see of labd, made of real parts: a broker, the API, the supervisor.

Only the engine is the fake of the API's tests. All folders are closed to users other than root, as
a checkout below /root is.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from labd.api import Caller, create_app, serving
from labd.events.broker import ManagedBroker
from labd.events.messages import Topics
from labd.events.mqtt import Connection, MqttError, connect
from labd.features.plugins.supervisor import Supervisor, SupervisorConfig
from labd.model.errors import Busy
from labd.model.events import EventDraft, EventType
from labd.model.plugins import PluginChange
from labd.model.records import OperationKind, OperationRecord, Wanted
from labd.model.specs import RestartPolicy
from labd.model.states import NodeState
from tests.system.brokers import cancelled, running_broker, short_folder
from tests.unit.fake_engine import FakeEngine, FakeTemplates

HOST = "00000000"
UID = 2_099_990_000
REPO = Path(__file__).resolve().parents[2]
PRELUDE = "from labd.plugin import Client, Event, Plugin, PluginError\nplugin = Plugin()\n"


class Engine(FakeEngine):
    """The fake, with starts that can go wrong.

    `fates` are the states that the next starts end in, `busy` is how many are refused before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fates: list[NodeState] = []
        self.busy = 0

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        if self.busy:
            self.busy -= 1
            raise Busy(f"lab {lab} is held by operation op-0 (up); wait for it")
        return await super().act(kind, lab, nodes, force=force, grace=grace)

    async def _work(self, operation: OperationRecord, nodes: Sequence[str]) -> None:
        if operation.kind not in {OperationKind.START, OperationKind.RESTART} or not self.fates:
            await super()._work(operation, nodes)
            return
        fate = self.fates.pop(0)
        for node in nodes:
            self.put(operation.lab, node, fate)
            if fate is not NodeState.STOPPED:
                await self.emit(
                    EventDraft(type=EventType(f"node.{fate}"), lab=operation.lab, node=node)
                )
        await self._end(operation, "it did not start")

    def put(self, lab: str, node: str, state: NodeState, wanted: Wanted = Wanted.RUNNING) -> None:
        """Have a node in a state."""
        record = self.all_nodes[lab, node]
        self.all_nodes[lab, node] = replace(record, state=state, wanted=wanted)

    def asked(self, *kinds: OperationKind) -> int:
        """Return how many operations of some kinds were asked for."""
        return sum(operation.kind in kinds for operation in self.all_operations.values())


class House:
    """A running house; `lost` are the events that the broker swallows."""

    def __init__(self, root: Path, broker: ManagedBroker) -> None:
        self.root, self.broker = root, broker
        self.engine = Engine()
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
        self, seen: Callable[[], bool], what: str | Callable[[], str], seconds: float = 15
    ) -> None:
        """Wait until something holds."""
        end = asyncio.get_running_loop().time() + seconds
        while not seen():
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
        """Have something happen; return its seq."""
        await self.engine.emit(EventDraft(type=kind, lab=lab, node="a", data=data))
        return len(self.engine.all_events)

    async def up(self, policy: RestartPolicy, lab: str = "web") -> None:
        """Have a lab with the node `a`, and nothing under way."""
        spec = FakeTemplates().load(f"name: {lab}\nnode: a\n", "t", {})
        spec = replace(spec, nodes=tuple(replace(node, restart=policy) for node in spec.nodes))
        operation = await self.engine.up(lab, spec)
        await self.engine.wait_operation(operation.id, 10)

    async def fails(
        self,
        state: NodeState = NodeState.CRASHED,
        *,
        wanted: Wanted = Wanted.RUNNING,
        lab: str = "web",
        **data: object,
    ) -> int:
        """Have the node `a` of a lab fail."""
        self.engine.put(lab, "a", state, wanted)
        return await self.tell(EventType(f"node.{state}"), lab, **data)

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
            await self.engine.wait_events(self.published)
            for event in await self.engine.events(self.published, 500):
                if event.seq not in self.lost:
                    topic = Topics(HOST).events(event.draft.lab)
                    await connection.deliver(topic, json.dumps(event.cloudevent()).encode())
                self.published = event.seq


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Yield a house, and end all of it."""
    with short_folder() as root:
        (root / "run").mkdir()
        (root / "state").mkdir(mode=0o711)
        async with running_broker(root) as broker:
            made = House(root, broker)

            def check(token: str, /) -> Caller | None:
                found = made.supervisor.caller(token)
                return None if found is None else Caller(name=f"plugin {found[0]}", scopes=found[1])

            app = create_app(
                made.engine,
                FakeTemplates(),
                version="1",
                tokens=check,
                admin_socket=root / "run" / "api.sock",
            )
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
