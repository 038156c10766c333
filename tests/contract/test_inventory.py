"""The contract of `inventory.port.Inventory`, on real SQLite: a file, and one in memory."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.inventory import SqliteInventory
from labd.inventory.port import Inventory
from labd.model.disks import DiskKind, DiskRef, image_disk
from labd.model.errors import StorageFailed
from labd.model.events import EventDraft, EventType
from labd.model.images import Image, ImageFormat, Profile
from labd.model.machine import Disk, MachineSpec
from labd.model.process import ProcessId
from labd.model.records import (
    LabRecord,
    NodeRecord,
    OperationKind,
    OperationRecord,
    PluginRecord,
    Wanted,
)
from labd.model.request_kinds import UpRequest
from labd.model.specs import LabSpec, Machine, NetworkSpec, NicSpec, NodeSpec
from labd.model.states import LabState, NodeState, OperationState

NOW = "2026-01-31T12:00:00.123456Z"


def a_spec(nodes: int = 2) -> LabSpec:
    """Return a spec with nested values of every kind."""
    return LabSpec(
        template="two-tier",
        parameters={"memory": "64 MiB"},
        nodes=tuple(
            NodeSpec(
                name=f"n{i}",
                image="tiny",
                nics=(NicSpec(name="eth0", network="lan", mac="02:00:00:00:00:01"),),
                commands=(("ip", "link"),),
            )
            for i in range(nodes)
        ),
        networks=(NetworkSpec(name="lan"),),
    )


def a_lab(name: str = "web", key: str = "aaaaaa") -> LabRecord:
    """Return a lab."""
    return LabRecord(
        name=name,
        key=key,
        spec=a_spec(),
        wanted=Wanted.RUNNING,
        state=LabState.STARTING,
        created=NOW,
    )


def a_node(name: str = "n0", number: int = 0, lab: str = "web") -> NodeRecord:
    """Return a node with a machine and a process."""
    key = f"k{number:05}"
    machine = MachineSpec(
        lab=lab,
        node=name,
        key=key,
        uuid=f"00000000-0000-4000-8000-{number:012}",
        uid=200000 + number,
        folder=Path("/state/nodes") / key,
        run=Path("/run/n") / key,
        vcpus=1,
        memory=64 << 20,
        machine=Machine.Q35,
        disks=(
            Disk(
                id="root",
                ref=DiskRef(kind=DiskKind.MACHINE, key=key, name="root.qcow2"),
                format=ImageFormat.QCOW2,
                backing=((image_disk("sha256:" + "a" * 64), ImageFormat.RAW),),
            ),
        ),
        config=b"\x00\xff\xfe not UTF-8",
    )
    return NodeRecord(
        lab=lab,
        name=name,
        key=key,
        uuid=machine.uuid,
        uid=machine.uid,
        wanted=Wanted.RUNNING,
        state=NodeState.STARTING,
        since=NOW,
        process=ProcessId(pid=42, start_time_ticks=4711, boot_id="b"),
        machine=machine,
        starts=1,
    )


def draft(n: int = 0, **changes: str) -> EventDraft:
    """Return something that did happen."""
    return EventDraft(type=EventType.NODE_READY, lab="web", node="n0", data={"n": n}, **changes)


async def write_node(inventory: Inventory, node: NodeRecord) -> None:
    """Write a node, and tell it."""
    async with inventory.transaction() as tx:
        await tx.emit(draft())
        await tx.put_node(node)


@pytest.fixture(params=["file", "memory"])
async def inventory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Inventory]:
    """Yield an empty inventory of each kind."""
    path = tmp_path / "state.db" if request.param == "file" else Path(":memory:")
    opened = await SqliteInventory.open(path, clock=lambda: NOW)
    yield opened
    await opened.close()


async def test_every_record_comes_back_equal_after_a_reopen(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.db"
    lab = replace(a_lab(), previous=a_spec(1), reason="so")
    node = a_node()
    bare = replace(a_node("n1", 1), process=None, machine=None)
    operation = OperationRecord(
        id="op-000000000001",
        kind=OperationKind.UP,
        lab="web",
        request=UpRequest(keep=True, before=("n0",)),
        state=OperationState.FAILED,
        progress={"done": 1, "total": None, "text": "ä"},
        error={"code": "busy", "message": "no"},
        created=NOW,
        finished=NOW,
    )
    image = Image(
        name="tiny",
        format=ImageFormat.KERNEL,
        digest="sha256:" + "0" * 64,
        size=9,
        files=("kernel", "initrd"),
    )
    profile = Profile(name="small", image="tiny", disk=1 << 30)
    plugin = PluginRecord(name="webhook", enabled=True, settings={"url": "http://x", "n": [1]})
    first = await SqliteInventory.open(path, clock=lambda: NOW)
    async with first.transaction() as tx:
        await tx.put_lab(lab)
        await tx.put_node(node)
        await tx.put_node(bare)
        await tx.put_operation(operation)
        await tx.put_image(image)
        await tx.put_profile(profile)
        await tx.put_plugin(plugin)
        event = await tx.emit(draft(1, operation=operation.id, subject="x"))
    host = await first.host_id()
    await first.close()

    again = await SqliteInventory.open(path)
    assert await again.lab("web") == lab
    assert await again.nodes() == [node, bare]
    assert await again.node_by_key(node.key) == node
    assert await again.operation(operation.id) == operation
    assert await again.images() == [image]
    assert await again.image("tiny") == image
    assert await again.profiles() == [profile]
    assert await again.profile("small") == profile
    assert await again.plugins() == [plugin]
    assert await again.events(0) == [event]
    assert event.source == f"/labd/{host}"
    assert event.time == NOW
    assert await again.host_id() == host
    assert len(host) == 8
    assert path.stat().st_mode & 0o777 == 0o600
    await again.close()


async def test_replacing_a_lab_keeps_its_nodes_and_deleting_it_takes_them(
    inventory: Inventory,
) -> None:
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
        await tx.put_lab(a_lab("other", "bbbbbb"))
        await tx.put_node(a_node("n1", 1))
        await tx.put_node(a_node("n0", 0))
        await tx.put_node(a_node("n0", 2, lab="other"))
    async with inventory.transaction() as tx:
        await tx.put_lab(replace(a_lab(), spec=a_spec(3), state=LabState.RUNNING))
    assert [(n.lab, n.name) for n in await inventory.nodes()] == [
        ("other", "n0"),
        ("web", "n0"),
        ("web", "n1"),
    ]
    assert [n.name for n in await inventory.nodes("web")] == ["n0", "n1"]
    async with inventory.transaction() as tx:
        await tx.delete_node("other", "n0")
        await tx.delete_lab("web")
    assert await inventory.nodes() == []
    assert await inventory.node_by_key("k00000") is None
    assert await inventory.lab("web") is None
    assert await inventory.nodes("web") == []


async def test_only_the_holder_of_a_transaction_sees_its_changes(inventory: Inventory) -> None:
    async def other() -> tuple[object, int]:
        return await inventory.lab("web"), len(await inventory.events(0))

    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
        await tx.emit(draft())
        assert await inventory.lab("web") == a_lab()
        assert await asyncio.create_task(other()) == (None, 0)
    assert (await asyncio.create_task(other()))[1] == 1


@pytest.mark.parametrize("how", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
async def test_an_exception_rolls_back_and_leaves_no_gap(
    inventory: Inventory, how: type[BaseException]
) -> None:
    async with inventory.transaction() as tx:
        await tx.emit(draft(1))

    async def broken() -> None:
        async with inventory.transaction() as tx:
            await tx.put_lab(a_lab())
            await tx.emit(draft(2))
            raise how

    with pytest.raises(how):
        await broken()
    async with inventory.transaction() as tx:
        await tx.emit(draft(3))
    assert await inventory.lab("web") is None
    assert [(e.seq, e.draft.data["n"]) for e in await inventory.events(0)] == [(1, 1), (2, 3)]
    assert await inventory.last_seq() == 2


async def test_a_broken_constraint_is_storage_failed_and_changes_nothing(
    inventory: Inventory,
) -> None:
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
        await tx.put_node(a_node())
    twin = replace(a_node("n1", 1), uid=a_node().uid)
    with pytest.raises(StorageFailed, match=r"UNIQUE constraint failed: nodes\.uid"):
        await write_node(inventory, twin)
    with pytest.raises(StorageFailed, match="FOREIGN KEY"):
        await write_node(inventory, a_node("n0", 7, lab="nowhere"))
    assert await inventory.nodes() == [a_node()]
    assert await inventory.last_seq() == 0


async def test_a_cancelled_commit_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    inventory = await SqliteInventory.open(path)

    async def write(n: int) -> None:
        async with inventory.transaction() as tx:
            await tx.put_lab(a_lab(f"lab{n}", f"key{n:03}"))
            await tx.emit(draft(n))

    for n in range(60):
        task = asyncio.create_task(write(n))
        for _ in range(n % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    labs = {lab.name for lab in await inventory.labs()}
    events = await inventory.events(0)
    assert {f"lab{e.draft.data['n']}" for e in events} == labs
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert 0 < len(labs) < 60
    await inventory.close()
    again = await SqliteInventory.open(path)
    assert {lab.name for lab in await again.labs()} == labs
    assert await again.events(0) == events
    await again.close()


async def test_a_commit_tells_who_waits_for_it_also_when_it_is_cancelled() -> None:
    inventory = await SqliteInventory.open(Path(":memory:"))
    told: list[str] = []

    async def write(name: str, key: str) -> None:
        async with inventory.transaction() as tx:
            tx.on_commit(lambda: told.append(name))
            await tx.put_lab(a_lab(name, key))

    for n in range(60):
        task = asyncio.create_task(write(f"lab{n:02}", f"key{n:03}"))
        for _ in range(n % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        # Not a moment later: an undo may run as soon as the cancellation comes out.
        assert told == [lab.name for lab in await inventory.labs()]
    assert 0 < len(told) < 60
    before = list(told)
    with pytest.raises(StorageFailed):
        await write("twin", (await inventory.labs())[0].key)
    assert told == before
    async with inventory.transaction() as tx:
        tx.on_commit(lambda: told.append("nothing"))
    assert told == [*before, "nothing"], "with nothing to write, too"
    await inventory.close()


async def test_concurrent_transactions_are_numbered_without_gaps(inventory: Inventory) -> None:
    async def write(n: int) -> None:
        async with inventory.transaction() as tx:
            await tx.emit(draft(n))
            await asyncio.sleep(0)
            if n % 5 == 0:
                raise ValueError
            await tx.emit(draft(n))

    await asyncio.gather(*(write(n) for n in range(100)), return_exceptions=True)
    events = await inventory.events(0)
    assert [e.seq for e in events] == list(range(1, 161))
    assert [e.draft.data["n"] for e in events[::2]] == [e.draft.data["n"] for e in events[1::2]]


async def test_a_transaction_inside_itself_is_refused_not_a_deadlock(inventory: Inventory) -> None:
    async with inventory.transaction():
        with pytest.raises(RuntimeError):
            async with inventory.transaction():
                pass


async def test_an_event_keeps_its_data_when_the_caller_changes_its_own(
    inventory: Inventory,
) -> None:
    data: dict[str, object] = {"a": [1]}
    async with inventory.transaction() as tx:
        await tx.emit(EventDraft(type=EventType.NODE_READY, data=data))
    data["b"] = 2
    assert (await inventory.events(0))[0].draft.data == {"a": [1]}


async def test_followers_are_woken_by_the_commit(inventory: Inventory) -> None:
    waiters = [asyncio.create_task(inventory.wait_events(after)) for after in (0, 0, 1)]
    async with inventory.transaction() as tx:
        await tx.emit(draft())
        await asyncio.sleep(0.01)
        assert not any(waiter.done() for waiter in waiters)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [waiter.done() for waiter in waiters] == [True, True, False]
    async with inventory.transaction() as tx:
        await tx.emit(draft())
    assert await asyncio.wait_for(waiters[2], 1) == 2
    assert await inventory.wait_events(0) == 2


async def test_events_are_paged_from_memory_and_from_disk_alike(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    inventory = await SqliteInventory.open(path)
    async with inventory.transaction() as tx:
        for n in range(25):
            await tx.emit(draft(n))
    warm = [await inventory.events(after, 7) for after in range(-1, 27)]
    await inventory.close()
    inventory = await SqliteInventory.open(path)
    cold = [await inventory.events(after, 7) for after in range(-1, 27)]
    assert cold == warm
    assert [e.seq for e in cold[4]] == [4, 5, 6, 7, 8, 9, 10]
    await inventory.close()


async def test_published_is_monotonic_bounded_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    inventory = await SqliteInventory.open(path)
    async with inventory.transaction() as tx:
        for n in range(5):
            await tx.emit(draft(n))
    await inventory.mark_published(3)
    await inventory.mark_published(2)
    assert await inventory.published_seq() == 3
    await inventory.mark_published(99)
    assert await inventory.published_seq() == 5
    await inventory.close()
    inventory = await SqliteInventory.open(path)
    assert await inventory.published_seq() == 5
    await inventory.close()


async def test_pruning_takes_only_what_is_published_and_beyond_the_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    inventory = await SqliteInventory.open(path, keep_events=10)
    async with inventory.transaction() as tx:
        for n in range(50):
            await tx.emit(draft(n))
    await inventory.mark_published(25)
    assert await inventory.first_seq() == 26
    await inventory.mark_published(50)
    assert await inventory.first_seq() == 41
    await inventory.close()
    inventory = await SqliteInventory.open(path, keep_events=10)
    assert await inventory.first_seq() == 41
    assert [e.seq for e in await inventory.events(0)] == list(range(41, 51))
    async with inventory.transaction() as tx:
        assert (await tx.emit(draft())).seq == 51
    await inventory.close()


async def test_operations_are_newest_first_and_old_finished_ones_go(inventory: Inventory) -> None:
    def operation(n: int, state: OperationState) -> OperationRecord:
        return OperationRecord(
            id=f"op-{n:012x}", kind=OperationKind.UP, request=UpRequest(), state=state
        )

    async with inventory.transaction() as tx:
        await tx.put_operation(operation(0, OperationState.RUNNING))
        for n in range(1, 1101):
            await tx.put_operation(operation(n, OperationState.SUCCEEDED))
    assert [o.id for o in await inventory.operations(running=True)] == ["op-000000000000"]
    assert [o.id for o in await inventory.operations(limit=2)] == [
        f"op-{1100:012x}",
        f"op-{1099:012x}",
    ]
    assert len(await inventory.operations(limit=5000)) == 1001
    async with inventory.transaction() as tx:
        await tx.put_operation(operation(0, OperationState.FAILED))
    assert await inventory.operations(running=True) == []


async def test_a_newer_schema_is_refused_by_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await SqliteInventory.open(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(StorageFailed, match="has schema 99, and this labd knows \\d+"):
        await SqliteInventory.open(path)


async def test_a_file_that_is_no_inventory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database at all, but it is long enough to be read as one" * 20)
    with pytest.raises(StorageFailed, match="not a database"):
        await SqliteInventory.open(path)


async def test_the_file_is_durable_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    inventory = await SqliteInventory.open(path)
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("SELECT name, state FROM labs").fetchall() == [("web", "starting")]
    raw.close()
    await inventory.close()


async def test_a_full_disk_is_storage_failed_and_the_next_commit_works(tmp_path: Path) -> None:
    inventory = await SqliteInventory.open(tmp_path / "state.db")
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
    # RLIMIT_FSIZE stands for the full disk: the kernel refuses the write, SQLite sees an I/O error.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, limits[1]))
    try:
        with pytest.raises(StorageFailed, match="free space"):
            await write_node(inventory, replace(a_node(), reason="x" * (1 << 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await inventory.node("web", "n0") is None
    await write_node(inventory, a_node())
    assert await inventory.last_seq() == 1
    await inventory.close()


async def test_a_closed_inventory_says_so(tmp_path: Path) -> None:
    inventory = await SqliteInventory.open(tmp_path / "state.db")
    await inventory.close()
    with pytest.raises(StorageFailed, match="is closed"):
        async with inventory.transaction() as tx:
            await tx.emit(draft())
