"""A damaged inventory is refused by name, and made anew from its copy and from what runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from labd.inventory import SqliteInventory, rebuild_inventory
from labd.model.errors import Conflict, InventoryDamaged
from labd.model.events import EventType
from labd.model.machine import FoundMachine
from labd.model.process import ProcessId
from labd.model.records import NodeRecord
from labd.model.states import NodeState
from tests.contract.test_inventory import a_lab, a_node, draft


async def filled(path: Path, nodes: int = 3) -> list[NodeRecord]:
    """Write some transactions, of which the copy at the opening has none."""
    inventory = await SqliteInventory.open(path)
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
    for number in range(nodes):
        async with inventory.transaction() as tx:
            await tx.put_node(a_node(f"n{number}", number))
            await tx.emit(draft(number))
    async with inventory.transaction() as tx:
        await tx.put_node(replace(a_node("n0", 0), state=NodeState.READY))
        await tx.delete_node("web", f"n{nodes - 1}")
    await inventory.mark_published(2)
    found = list(await inventory.nodes())
    await inventory.close()
    return found


def damage(path: Path) -> None:
    """Overwrite pages in the middle, where the rows are."""
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)


def running(*machines: tuple[str, ProcessId]) -> list[FoundMachine]:
    return [FoundMachine(key=key, uuid="", process=process) for key, process in machines]


async def rebuilt(path: Path, runs: Sequence[FoundMachine] = (), *, force: bool = False) -> str:
    async def scan(_: str) -> Sequence[FoundMachine]:
        return runs

    return await rebuild_inventory(path, scan, force=force)


async def test_a_damaged_inventory_is_refused_and_made_anew_whole(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    nodes = await filled(path)
    damage(path)
    with pytest.raises(InventoryDamaged, match="machines run on.*lab fsck --rebuild"):
        await SqliteInventory.open(path)
    said = await rebuilt(path, running(*((n.key, n.process) for n in nodes if n.process)))
    assert "1 labs and 2 nodes" in said
    assert len(list(tmp_path.glob("labd.db.damaged-*Z"))) == 1
    inventory = await SqliteInventory.open(path)
    assert list(await inventory.nodes()) == nodes
    events = await inventory.events(0)
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert events[-1].draft.type is EventType.DAEMON_REBUILT
    assert await inventory.published_seq() == 2
    await inventory.close()


async def test_an_inventory_that_lost_its_last_commits_is_refused_and_made_anew(
    tmp_path: Path,
) -> None:
    path, earlier = tmp_path / "labd.db", tmp_path / "earlier.db"
    inventory = await SqliteInventory.open(path)
    async with inventory.transaction() as tx:
        await tx.put_lab(a_lab())
        await tx.emit(draft(0))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(earlier)) as target:
        source.backup(target)
    async with inventory.transaction() as tx:
        await tx.emit(draft(1))
    async with inventory.transaction() as tx:
        await tx.put_node(a_node("n0", 0))
    await inventory.close()
    earlier.replace(path)  # what is left when SQLite's log has lost its end: sound, and too short
    with pytest.raises(InventoryDamaged, match="its events end at 1, and 2 were committed"):
        await SqliteInventory.open(path)
    await rebuilt(path)
    inventory = await SqliteInventory.open(path)
    assert [node.name for node in await inventory.nodes()] == ["n0"]
    assert [event.seq for event in await inventory.events(0)] == [1, 2, 3]
    await inventory.close()


async def test_an_inventory_that_has_gone_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    nodes = await filled(path)
    path.unlink()
    with pytest.raises(InventoryDamaged, match="it is not there, and its copy is"):
        await SqliteInventory.open(path)
    await rebuilt(path)
    inventory = await SqliteInventory.open(path)
    assert list(await inventory.nodes()) == nodes
    await inventory.close()


async def test_a_row_that_nobody_can_read_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    await filled(path)
    data = path.read_bytes()
    assert b'"template":"two-tier"' in data
    path.write_bytes(data.replace(b'"template":"two-tier"', b'"template":["wo-tie]]'))
    with pytest.raises(InventoryDamaged, match="a row cannot be read"):
        await SqliteInventory.open(path)


async def test_machines_that_no_copy_knows_are_not_given_up_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    await filled(path)
    damage(path)
    before = path.read_bytes()
    stranger = running(("zzzzzz", ProcessId(pid=4711, start_time_ticks=1, boot_id="b")))
    with pytest.raises(Conflict, match=r"4711 \(zzzzzz\).*--force"):
        await rebuilt(path, stranger)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.rebuilt*"))
    assert "2 nodes" in await rebuilt(path, stranger, force=True)


async def test_a_log_that_was_cut_off_counts_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    await filled(path)
    (changes,) = (tmp_path / "labd.db.copies").glob("since-*.jsonl")
    lines = changes.read_bytes().splitlines(keepends=True)
    changes.write_bytes(b"".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    damage(path)
    await rebuilt(path)
    inventory = await SqliteInventory.open(path)
    assert [node.name for node in await inventory.nodes()] == ["n0", "n1"]
    await inventory.close()


async def test_a_log_whose_bytes_have_turned_counts_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    await filled(path)
    path.write_bytes(bytes(8192))
    (log,) = tmp_path.glob("labd.db.copies/since-*.jsonl")
    first, *others = log.read_text().splitlines(keepends=True)
    for turned in (
        '"INSERT INTO n/des", []',
        '"INSERT INTO nodes VALUES (?)", ["web", 1]',
        '"DELETE FROM nodes; DELETE FROM labs", []',
        '"DELETE FROM nodes WHERE name=?", [99999999999999999999]',
        '"DELETE FROM nodes WHERE name=?", [{}]',
    ):
        log.write_text(f"{first}[[{turned}]]\n{''.join(others)}")
        said = await rebuilt(path)
        assert "1 labs and 0 nodes" in said
        assert not list(tmp_path.glob("labd.db.copies/*-wal")), "no file beside the copy"
        path.write_bytes(bytes(8192))


async def test_a_copy_that_is_damaged_too_leaves_everything_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    await filled(path)
    damage(path)
    before = path.read_bytes()
    for copy in (tmp_path / "labd.db.copies").glob("copy-*"):
        copy.write_bytes(b"nothing" * 1000)
    with pytest.raises(InventoryDamaged, match="put a backup of"):
        await rebuilt(path)
    assert path.read_bytes() == before


async def test_a_sound_inventory_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    nodes = await filled(path)
    assert "is sound, and stays" in await rebuilt(path)
    inventory = await SqliteInventory.open(path)
    assert list(await inventory.nodes()) == nodes
    await inventory.close()


async def test_each_start_begins_a_copy_and_keeps_one(tmp_path: Path) -> None:
    path = tmp_path / "labd.db"
    for _ in range(3):
        await filled(path)
    names = sorted(entry.name for entry in (tmp_path / "labd.db.copies").iterdir())
    assert names == ["copy-3.db", "since-3.jsonl"]
    assert (tmp_path / "labd.db.copies" / "copy-3.db").stat().st_mode & 0o777 == 0o600
