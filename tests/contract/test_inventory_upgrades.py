"""Inventories of every schema there ever was are taken over whole.

`golden/inventory-NNNN.sql` was written by the labd that had schema NNNN, with a row or more in each
table: `python -m tools.golden_inventory` writes that of the present one.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from labd.inventory import SqliteInventory
from labd.inventory.database import known_migrations
from labd.inventory.disk_rows import with_refs
from labd.inventory.rows import dump, load
from labd.model.disks import DiskKind, DiskRef
from labd.model.errors import StorageFailed
from labd.model.events import EventDraft, EventType
from labd.model.images import ImageFormat
from labd.model.machine import MachineSpec
from tests.unit.test_argv import PLAIN as MACHINE

GOLDEN = Path(__file__).parent / "golden"
FILES = {int(path.stem.rpartition("-")[2]): path for path in sorted(GOLDEN.glob("*.sql"))}
Table = dict[tuple[object, ...], dict[str, object]]


def names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of all tables."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
    return [row[0] for row in found]


def tables(database: Path) -> dict[str, Table]:
    """Return table -> primary key -> column -> value, JSON parsed."""
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        found: dict[str, Table] = {}
        for name in names(connection):
            keys = [
                row["name"] for row in connection.execute(f"PRAGMA table_info({name})") if row["pk"]
            ]
            found[name] = {
                tuple(row[key] for key in keys): {
                    column: parsed(row[column])
                    for column in row.keys()  # noqa: SIM118 - a sqlite3.Row
                }
                for row in connection.execute(f"SELECT * FROM {name}")
            }
    connection.close()
    return found


def parsed(value: object) -> object:
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        return json.loads(value)
    return value


def holds(new: object, old: object) -> bool:
    """Tell whether a value has all that an older one had; more is right."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and holds(new[key], value) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(holds, new, old))
    return new == old


def named(value: object) -> object:
    """Return a value of an older labd with names of disks instead of paths."""
    if isinstance(value, list):
        return [named(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: named(item) for name, item in value.items()}
    if "path" in found and "format" in found:
        found["ref"] = REFS[str(found.pop("path"))]
        below = found["backing"]
        assert isinstance(below, list)
        found["backing"] = [[REFS[path], form] for path, form in below]
    return found


# What the golden inventories have.
REFS = {
    "/state/nodes/root.qcow2": {
        "kind": "machine",
        "key": "nodes",
        "name": "root.qcow2",
        "storage": "local",
    },
    "/images/x/disk": {"kind": "image", "key": "x", "name": "", "storage": "local"},
}


def columns(database: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(database) as connection:
        found = {
            name: list(connection.execute(f"PRAGMA table_info({name})"))
            for name in names(connection)
        }
    connection.close()
    return found


def restored(version: int, path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(FILES[version].read_text())
    connection.close()
    return path


def test_each_schema_before_the_present_one_has_its_golden_inventory() -> None:
    assert set(known_migrations()) - {max(known_migrations())} <= set(FILES)


@pytest.mark.parametrize("version", FILES)
async def test_an_inventory_of_every_schema_is_taken_over_whole(
    version: int, tmp_path: Path
) -> None:
    path = restored(version, tmp_path / "labd.db")
    old = tables(path)
    assert all(old.values()), "a table without a row proves nothing"
    inventory = await SqliteInventory.open(path)
    assert await inventory.host_id() == "0123abcd"
    labs, nodes = await inventory.labs(), await inventory.nodes()
    events = await inventory.events(0)
    assert [event.seq for event in events] == [1, 2]
    assert await inventory.published_seq() == 1
    assert {lab.name for lab in labs} == {"web", "idle"}
    assert len(nodes) == len(old["nodes"])
    # Every row is written again by the present labd, from what it read.
    async with inventory.transaction() as tx:
        for lab in labs:
            await tx.put_lab(lab)
        for node in nodes:
            await tx.put_node(node)
        for operation in await inventory.operations():
            await tx.put_operation(operation)
        for image in await inventory.images():
            await tx.put_image(image)
        for profile in await inventory.profiles():
            await tx.put_profile(profile)
        for plugin in await inventory.plugins():
            await tx.put_plugin(plugin)
        for checkpoint in await inventory.checkpoints():
            await tx.put_checkpoint(checkpoint)
        for group in await inventory.classes():
            await tx.put_class(group)
        for pool in await inventory.pools():
            await tx.put_pool(pool)
        for member in await inventory.pool_members():
            await tx.put_pool_member(member)
        for term in await inventory.lab_leases():
            await tx.put_lab_lease(term)
        for lab in labs:
            for publication in await inventory.publications(lab.name):
                await tx.put_publication(publication)
            for lease in await inventory.leases(lab.name):
                await tx.put_lease(lease)
            for wire in await inventory.links(lab.name):
                await tx.put_link(wire)
    assert list(await inventory.integrity()) == []
    async with inventory.transaction() as tx:
        await tx.emit(EventDraft(type=EventType.DAEMON_STARTED))
    assert await inventory.last_seq() == 3
    await inventory.close()
    new = tables(path)
    for name, table in old.items():
        for key, row in table.items():
            there = new[name][key]
            assert holds(named(there), named(row)), f"{name} {key}: {there} lost some of {row}"
    fresh = await SqliteInventory.open(tmp_path / "fresh.db")
    await fresh.close()
    assert columns(path) == columns(tmp_path / "fresh.db")


DISKS = [
    ("/var/lib/labd/nodes/k1/root-ab.t1.qcow2", "machine", "k1", "root-ab.t1.qcow2"),
    ("/srv/x/lib/images/" + "a" * 64 + "/disk", "image", "a" * 64, ""),
    ("/srv/x/lib/checkpoints/.layers/" + "b" * 64, "layer", "b" * 64, ""),
    (".", "machine", "", ""),
]


@pytest.mark.parametrize(("path", "kind", "key", "name"), DISKS)
def test_a_path_of_an_older_row_is_a_name_in_the_class_local(
    path: str, kind: str, key: str, name: str
) -> None:
    ref = DiskRef(kind=DiskKind(kind), key=key, name=name, storage="local")
    disk = {"id": "d0", "path": path, "format": "qcow2", "backing": [[path, "raw"]]}
    machine = json.loads(dump(MACHINE))
    machine[0]["disks"] = [disk]
    member = {"key": "m", "checkpoint": "c", "nodes": [{"machine": machine[0]}]}
    (read,) = load(MachineSpec, json.dumps(machine)).disks
    assert (read.ref, read.backing) == (ref, ((ref, ImageFormat.RAW),))
    again = load(MachineSpec, dump(replace(MACHINE, disks=(read,))))
    assert again.disks == (read,)
    assert json.loads(with_refs(json.dumps([member])))[0]["nodes"][0]["machine"]["disks"][0][
        "ref"
    ] == {"kind": kind, "key": key, "name": name, "storage": "local"}


def test_what_holds_what() -> None:
    assert holds({"a": [1, {"b": 2, "new": 3}]}, {"a": [1, {"b": 2}]})
    assert not holds({"a": [1]}, {"a": [1, 2]})
    assert not holds({"a": 1}, {"a": 2})


async def test_an_inventory_of_a_newer_labd_is_left_alone(tmp_path: Path) -> None:
    path = restored(1, tmp_path / "labd.db")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=4711")
    connection.close()
    before = tables(path)
    with pytest.raises(StorageFailed, match="schema 4711.*install the labd that wrote it"):
        await SqliteInventory.open(path)
    assert tables(path) == before
