"""A small engine in memory behind the real API: labs come up at once, and their nodes are ready."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from labd.drivers.node.port import Console
from labd.features.facade import Change, LabView, NetworkView, PluginView
from labd.features.templates.port import ShippedTemplate
from labd.host.timelog import LogLine
from labd.model.differences import Difference, Mismatch
from labd.model.errors import (
    ConfigError,
    Conflict,
    ImageRefused,
    InUse,
    NotFound,
    Problem,
    TemplateError,
)
from labd.model.events import Event, EventDraft, EventType
from labd.model.lab_leases import LeaseAsk
from labd.model.names import NodeRef
from labd.model.process import ProcessId
from labd.model.records import (
    LabRecord,
    NodeRecord,
    OperationKind,
    OperationRecord,
    PluginRecord,
    Wanted,
)
from labd.model.specs import Image, ImageFormat, LabSpec, NetworkSpec, NodeSpec, Profile
from labd.model.states import LabState, NetworkState, NodeState, OperationState, PluginState
from tests.unit.fake_access import FakeAccess
from tests.unit.fake_activity import FakeActivity
from tests.unit.fake_addresses import FakeAddresses
from tests.unit.fake_captures import FakeCapturesApi
from tests.unit.fake_checkpoints import FakeCheckpointsApi
from tests.unit.fake_classes import FakeClasses
from tests.unit.fake_edits import FakeEdits
from tests.unit.fake_guests import FakeGuestsApi
from tests.unit.fake_leases import FakeLeases
from tests.unit.fake_pools import FakePools
from tests.unit.fake_screens import FakeScreensApi
from tests.unit.fake_usage import FakeUsageApi
from tests.unit.fake_ways import FakeWays
from tests.unit.fake_wires import FakeWiresApi
from tests.unit.sample_requests import a_request

NOW = "2026-01-31T12:00:00.123456Z"
K = OperationKind

_AFTER = {
    K.START: NodeState.READY,
    K.RESTART: NodeState.READY,
    K.RESUME: NodeState.READY,
    K.RESET: NodeState.READY,
    K.STOP: NodeState.STOPPED,
    K.DOWN: NodeState.STOPPED,
    K.PAUSE: NodeState.PAUSED,
}
_TOLD = {
    NodeState.READY: EventType.NODE_READY,
    NodeState.STOPPED: EventType.NODE_STOPPED,
    NodeState.PAUSED: EventType.NODE_PAUSED,
}


class FakeTemplates:
    """Templates of lines `name: X`, `node: Y`; `bad` is a mistake, `slow` a node that never is."""

    def load(self, text: str, file: str, settings: Mapping[str, str]) -> LabSpec:
        lines = [line.partition(":") for line in text.splitlines() if line.strip()]
        problems = [
            Problem(message=f"unknown key '{key}'; did you mean 'name'?", line=number, column=1)
            for number, (key, _, _) in enumerate(lines, 1)
            if key not in {"name", "node"}
        ]
        if problems:
            raise TemplateError(file, problems)
        if unknown := sorted(set(settings) - {"memory"}):
            raise TemplateError("--set", [Problem(message=f"no parameter '{unknown[0]}'")])
        nodes = [value.strip() for key, _, value in lines if key == "node"]
        return LabSpec(
            template=next((value.strip() for key, _, value in lines if key == "name"), "none"),
            description="a fake",
            parameters=dict(settings),
            nodes=tuple(NodeSpec(name=name, image="tiny") for name in nodes),
            networks=(NetworkSpec(name="lan", subnet="10.0.0.0/24"),),
        )

    def schema(self) -> Mapping[str, object]:
        return {"type": "object"}

    def parameters(self, text: str, file: str) -> Sequence[Mapping[str, object]]:
        self.load(text, file, {})
        return [{"name": "memory", "type": "size", "default": "64 MiB", "description": "Each"}]

    def shipped(self) -> Sequence[ShippedTemplate]:
        return [ShippedTemplate(name="hello", file="hello.yaml", description="one node")]

    def text(self, name: str) -> tuple[str, str]:
        if name != "hello":
            raise NotFound(f"there is no shipped template {name}; known: hello")
        return "hello.yaml", "name: hello\nnode: hello\n"


class FakeConsole:
    """Says hello, then echoes in capitals; ends at `bye`."""

    def __init__(self) -> None:
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._out.put_nowait(b"hello\r\n")

    async def read(self) -> bytes:
        return await self._out.get()

    async def write(self, data: bytes) -> None:
        await self._out.put(b"" if b"bye" in data else data.upper())


class FakeEngine:
    """Implements `EngineApi`."""

    def __init__(self) -> None:
        self.addresses = FakeAddresses(self.lab)
        self.connect = FakeWays(self.node, self.lab)
        self.all_labs: dict[str, LabRecord] = {}
        self.access = FakeAccess(lambda: {lab.name: lab.key for lab in self.all_labs.values()})
        self.all_nodes: dict[tuple[str, str], NodeRecord] = {}
        self.all_operations: dict[str, OperationRecord] = {}
        self.all_events: list[Event] = []
        self.all_images: dict[str, Image] = {
            "tiny": Image(
                name="tiny",
                format=ImageFormat.KERNEL,
                digest="sha256:" + "0" * 64,
                size=9 << 20,
                created=NOW,
                source="recipe tiny",
            )
        }
        self.all_profiles: dict[str, Profile] = {}
        self.guests = FakeGuestsApi(self.node)
        self.usage = FakeUsageApi(self.lab, self.all_nodes.values)
        self.screens = FakeScreensApi(self.node)
        self.links = FakeWiresApi(self.lab)
        self.captures = FakeCapturesApi(self.lab)
        self.checkpoints = FakeCheckpointsApi(self.lab, self._at_once)
        self.classes = FakeClasses()
        self.pools = FakePools()
        self.leases = FakeLeases(self.lab)
        self.activity = FakeActivity(self.lab, lambda: self.all_labs, self.emit)
        self.edits = FakeEdits(self.lab, self.node, self._edited)
        self.plugin = PluginRecord(name="watchdog", enabled=False)
        self.first = 1
        self.calls = 0
        self.broken = False
        self.delay = 0.0  # seconds an operation takes
        self.level = "ok"
        self.newer_facts = {"accel_cpu": "host,migratable=on"}
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def emit(self, draft: EventDraft) -> None:
        event = Event(seq=len(self.all_events) + 1, time=NOW, source="/labd/00000000", draft=draft)
        async with self._news:
            self.all_events.append(event)
            self._news.notify_all()

    async def _begin(self, kind: OperationKind, lab: str = "") -> OperationRecord:
        operation = OperationRecord(
            id=f"op-{secrets.token_hex(6)}",
            kind=kind,
            request=a_request(kind),
            lab=lab,
            created=NOW,
        )
        self.all_operations[operation.id] = operation
        await self.emit(
            EventDraft(
                type=EventType.OPERATION_STARTED,
                lab=lab,
                operation=operation.id,
                data={"kind": str(kind)},
            )
        )
        return operation

    async def _at_once(self, kind: OperationKind, lab: str) -> OperationRecord:
        """Begin an operation that has succeeded."""
        operation = await self._begin(kind, lab)
        await self._end(operation)
        return self.all_operations[operation.id]

    async def _end(self, operation: OperationRecord, error: str = "") -> None:
        failed = bool(error)
        done = replace(
            operation,
            state=OperationState.FAILED if failed else OperationState.SUCCEEDED,
            finished=NOW,
            error={"code": "guest_failed", "message": error} if failed else None,
        )
        self.all_operations[operation.id] = done
        kind = EventType.OPERATION_FAILED if failed else EventType.OPERATION_SUCCEEDED
        await self.emit(EventDraft(type=kind, lab=operation.lab, operation=operation.id))

    async def _edited(self, lab: str) -> OperationRecord:
        operation = await self._begin(K.EDIT, lab)
        self._spawn(self._end(operation))
        return operation

    def _spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # labs

    async def up(
        self,
        name: str,
        spec: LabSpec,
        *,
        keep: bool = False,
        force: bool = False,
        timeout: float | None = None,
        lease: LeaseAsk | None = None,
    ) -> OperationRecord:
        self.leases.give(name, lease)
        self.calls += 1
        if name == "full":
            raise Conflict("lab full is held by operation op-000000000000 (up); wait for it")
        operation = await self._begin(K.UP, name)
        self.all_labs[name] = LabRecord(
            name=name,
            key="abc123",
            spec=spec,
            wanted=Wanted.RUNNING,
            state=LabState.STARTING,
            created=NOW,
        )
        for node in spec.nodes:
            self.all_nodes[name, node.name] = NodeRecord(
                lab=name,
                name=node.name,
                key=f"k{node.name}"[:6],
                uuid="00000000-0000-0000-0000-000000000000",
                uid=2_000_000_000,
                wanted=Wanted.RUNNING,
                state=NodeState.STARTING,
                since=NOW,
            )
        self._spawn(self._work_up(operation, name, spec))
        return operation

    async def _work_up(self, operation: OperationRecord, name: str, spec: LabSpec) -> None:
        await asyncio.sleep(self.delay)
        for node in spec.nodes:
            if node.name == "slow":
                await self._end(operation, f"{name}/slow is not ready after 2 s")
                return
            await self._set(NodeRef(name, node.name), NodeState.READY, operation.id)
        self.all_labs[name] = replace(self.all_labs[name], state=LabState.RUNNING)
        await self._end(operation)

    async def _set(self, ref: NodeRef, state: NodeState, operation: str) -> None:
        process = ProcessId(pid=4242, start_time_ticks=1, boot_id="b")
        stopped = state is NodeState.STOPPED
        self.all_nodes[ref.lab, ref.node] = replace(
            self.all_nodes[ref.lab, ref.node],
            state=state,
            wanted=Wanted.STOPPED if stopped else Wanted.RUNNING,
            process=None if stopped else process,
        )
        await self.emit(
            EventDraft(type=_TOLD[state], lab=ref.lab, node=ref.node, operation=operation)
        )

    async def plan(self, name: str, spec: LabSpec) -> Sequence[Change]:
        if name in self.all_labs:
            return []
        return [Change(action="create", kind="node", name=node.name) for node in spec.nodes]

    async def act(
        self,
        kind: OperationKind,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> OperationRecord:
        self.calls += 1
        await self.lab(lab)
        for node in nodes:
            await self.node(NodeRef(lab, node))
        operation = await self._begin(kind, lab)
        self._spawn(self._work(operation, nodes))
        return operation

    async def _work(self, operation: OperationRecord, nodes: Sequence[str]) -> None:
        await asyncio.sleep(self.delay)
        lab = operation.lab
        if operation.kind is K.DESTROY:
            for key in [key for key in self.all_nodes if key[0] == lab]:
                await self.emit(EventDraft(type=EventType.NODE_DESTROYED, lab=lab, node=key[1]))
                del self.all_nodes[key]
            del self.all_labs[lab]
        else:
            state = _AFTER[operation.kind]
            for name in nodes or [key[1] for key in self.all_nodes if key[0] == lab]:
                await self._set(NodeRef(lab, name), state, operation.id)
            done = LabState.STOPPED if operation.kind is K.DOWN else LabState.RUNNING
            self.all_labs[lab] = replace(self.all_labs[lab], state=done)
        await self._end(operation)

    async def labs(self) -> Sequence[tuple[LabRecord, Sequence[NodeRecord]]]:
        if self.broken:
            raise RuntimeError("a secret of the inside")
        return [
            (lab, [node for node in self.all_nodes.values() if node.lab == lab.name])
            for lab in self.all_labs.values()
        ]

    async def lab(self, name: str) -> LabView:
        if name not in self.all_labs:
            raise NotFound(f"there is no lab {name}")
        running = [
            op
            for op in self.all_operations.values()
            if op.lab == name and op.state is OperationState.RUNNING
        ]
        return LabView(
            lab=self.all_labs[name],
            lease=self.leases.find(name),
            nodes=tuple(node for node in self.all_nodes.values() if node.lab == name),
            networks=(
                NetworkView(
                    name="lan",
                    bridge="br0",
                    state=NetworkState.UP,
                    subnet="10.0.0.0/24",
                    uplink="none",
                    members=(),
                ),
            ),
            operation=running[0] if running else None,
        )

    async def node(self, ref: NodeRef) -> NodeRecord:
        await self.lab(ref.lab)
        if (ref.lab, ref.node) not in self.all_nodes:
            raise NotFound(f"there is no node {ref}")
        return self.all_nodes[ref.lab, ref.node]

    @asynccontextmanager
    async def console(self, ref: NodeRef) -> AsyncIterator[Console]:
        await self.node(ref)
        yield FakeConsole()

    async def log_lines(self, ref: NodeRef, after: int) -> Sequence[tuple[str, LogLine]]:
        await self.node(ref)
        texts = [("console", "booting"), ("qemu", "a warning"), ("console", "labd: ready")]
        return [
            (
                source,
                LogLine(
                    position=10 * at,
                    time=f"2026-01-01T00:00:0{at}.000Z",
                    text=text,
                    whole=True,
                ),
            )
            for at, (source, text) in enumerate(texts, 1)
            if source == "qemu" or 10 * at > after
        ]

    async def console_log(self, ref: NodeRef) -> bytes:
        await self.node(ref)
        return b"booting\r\nlabd: ready\r\n"

    # operations and events

    async def operations(self, *, limit: int = 100) -> Sequence[OperationRecord]:
        return list(reversed(self.all_operations.values()))[:limit]

    async def operation(self, id: str) -> OperationRecord:
        if id not in self.all_operations:
            raise NotFound(f"there is no operation {id}")
        return self.all_operations[id]

    async def wait_operation(self, id: str, timeout: float) -> OperationRecord:
        end = asyncio.get_running_loop().time() + timeout
        while (found := await self.operation(id)).state is OperationState.RUNNING:
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.01)
        return found

    async def events(self, after: int, limit: int) -> Sequence[Event]:
        return [e for e in self.all_events if e.seq > after and e.seq >= self.first][:limit]

    async def event_bounds(self) -> tuple[int, int]:
        return self.first, len(self.all_events)

    async def wait_events(self, after: int) -> int:
        async with self._news:
            await self._news.wait_for(lambda: len(self.all_events) > after)
        return len(self.all_events)

    # images and profiles

    async def images(self) -> Sequence[Image]:
        return list(self.all_images.values())

    async def image(self, name: str) -> tuple[Image, Sequence[str]]:
        if name not in self.all_images:
            raise NotFound(f"there is no image {name}; known: tiny")
        users = [f"{n.lab}/{n.name}" for n in self.all_nodes.values() if name == "tiny"]
        return self.all_images[name], users

    async def receive_image(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str,
        source: str,
        kernel_size: int | None,
        cmdline: str,
        ready_pattern: str,
    ) -> Image:
        if name == "early":
            raise Conflict("there is an image early; remove it first")
        digest, size = hashlib.sha256(), 0
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
        if sha256 and digest.hexdigest() != sha256:
            raise ImageRefused(f"image {name} has another digest than {sha256[:12]}…")
        image = Image(
            name=name,
            format=format or ImageFormat.RAW,
            digest=f"sha256:{digest.hexdigest()}",
            size=size,
            virtual_size=size,
            cmdline=cmdline,
            ready_pattern=ready_pattern,
            source=source,
            created=NOW,
            files=("kernel", "initrd") if kernel_size else ("disk",),
        )
        self.all_images[name] = image
        return image

    async def import_image(
        self, name: str, url: str, *, format: ImageFormat | None, sha256: str
    ) -> OperationRecord:
        operation = await self._begin(K.IMAGE_IMPORT)
        self.all_images[name] = replace(self.all_images["tiny"], name=name, source=url)
        self._spawn(self._end(operation))
        return operation

    async def build_image(self, recipe: str, name: str) -> OperationRecord:
        if recipe != "tiny":
            raise NotFound(f"there is no recipe {recipe}; known: tiny")
        operation = await self._begin(K.IMAGE_BUILD)
        self.all_images[name] = replace(self.all_images["tiny"], name=name)
        self._spawn(self._end(operation))
        return operation

    async def remove_image(self, name: str) -> None:
        _, users = await self.image(name)
        if users:
            raise InUse(f"image {name} is used by {', '.join(users)}", users=list(users))
        del self.all_images[name]

    async def profiles(self) -> Sequence[Profile]:
        return list(self.all_profiles.values())

    async def profile(self, name: str) -> Profile:
        if name not in self.all_profiles:
            raise NotFound(f"there is no profile {name}")
        return self.all_profiles[name]

    async def add_profile(self, profile: Profile) -> Profile:
        self.all_profiles[profile.name] = profile
        return profile

    async def remove_profile(self, name: str) -> None:
        await self.profile(name)
        del self.all_profiles[name]

    # plugins

    def _view(self) -> PluginView:
        state = PluginState.RUNNING if self.plugin.enabled else PluginState.DISABLED
        return PluginView(
            name="watchdog",
            description="starts nodes again",
            version="1.0",
            events=("node.*",),
            scopes=("labs:control",),
            settings_schema={"properties": {"secret": {"type": "string"}}},
            record=self.plugin,
            state=state,
        )

    async def plugins(self) -> Sequence[PluginView]:
        return [self._view()]

    async def enable_plugin(self, name: str, settings: Mapping[str, object]) -> PluginView:
        if name != "watchdog":
            raise NotFound(f"there is no plugin {name}; known: watchdog")
        if unknown := sorted(set(settings) - {"patience", "limit", "secret"}):
            raise ConfigError(f"plugin {name} has no setting '{unknown[0]}'")
        self.plugin = replace(self.plugin, enabled=True, settings=settings)
        return self._view()

    async def disable_plugin(self, name: str) -> PluginView:
        if name != "watchdog":
            raise NotFound(f"there is no plugin {name}; known: watchdog")
        self.plugin = replace(self.plugin, enabled=False)
        return self._view()

    async def plugin_log(self, name: str) -> bytes:
        return b"watching\n"

    # host

    async def differences(self, *, repair: bool) -> Sequence[Difference]:
        return [
            Difference(
                kind=Mismatch.ORPHAN_KEYS,
                name="abcdef",
                text="the SSH keys of abcdef belong to no lab",
                remedy="remove them",
                repaired=repair,
            )
        ]

    async def findings(self) -> Sequence[Mapping[str, str]]:
        return [
            {"name": "kvm", "level": self.level, "text": "works", "advice": ""},
        ]

    async def info(self) -> Mapping[str, object]:
        return {
            "version": "x",
            "host_id": "00000000",
            "pid": 1,
            "accel": "kvm",
            **self.newer_facts,
            "last_seq": len(self.all_events),
            "broker": {
                "mode": "managed",
                "host": "127.0.0.1",
                "port": 1883,
                "username": "reader",
                "password_file": "/run/labd/broker.password",
                "connected": False,
                "problem": "refused",
            },
        }
