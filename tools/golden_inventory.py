"""Write the golden inventory of the present schema, for tests/contract/test_inventory_upgrades.py.

    python -m tools.golden_inventory        before a change that brings a new migration

It has a row or more in each table; a new table needs one here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

from labd.inventory import SqliteInventory
from labd.inventory.transaction import SqliteTransaction
from labd.model.checkpoints import CheckpointRecord, SavedDisk, SavedNode
from labd.model.classes import ClassRecord, Student
from labd.model.events import EventDraft, EventType
from labd.model.images import Image, ImageFormat, Profile
from labd.model.impairment import Impairment
from labd.model.lab_leases import LabLease, LeaseAsk, LeaseStage
from labd.model.links import LinkRecord
from labd.model.people import Role, TokenLab, TokenRecord
from labd.model.pools import MemberState, WarmMember, WarmPoolRecord
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationKind,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
    Wanted,
)
from labd.model.request_kinds import UpRequest
from labd.model.specs import LabSpec, PublishSpec
from labd.model.states import LabState, NodeState, OperationState
from labd.template import load

_HOME = Path(__file__).resolve().parents[1]
_GOLDEN = _HOME / "tests" / "contract" / "golden"
_HOST = "0123abcd"
_NOW = "2026-01-31T12:00:00.123456Z"
_ORIGIN, _LAB, _FIRST = "cccccc", "aaaaaa", "dddddd"
_DIGEST = "sha256:" + "ab" * 32


async def _write(path: Path) -> None:
    spec = load((_HOME / "lab-templates" / "two-tier.yaml").read_text(), "two-tier.yaml", {})
    inventory = await SqliteInventory.open(path, clock=lambda: _NOW)
    async with inventory.transaction() as tx:
        await _labs(tx, spec)
        await _library(tx, spec)
        await tx.emit(EventDraft(type=EventType.NODE_READY, lab="web", data={"seconds": 1.5}))
        await tx.emit(EventDraft(type=EventType.DAEMON_STARTED, data={"adopted": 1}))
    await inventory.mark_published(1)
    await inventory.close()


async def _labs(tx: SqliteTransaction, spec: LabSpec) -> None:
    web = LabRecord(
        name="web",
        key=_LAB,
        spec=spec,
        previous=spec,
        wanted=Wanted.RUNNING,
        state=LabState.RUNNING,
        created=_NOW,
        origin=_ORIGIN,
        owner="anna",
    )
    await tx.put_lab(web)
    await tx.put_lab(replace(web, name="idle", key="bbbbbb", previous=None, origin=""))
    for number, node in enumerate(spec.nodes):
        record = NodeRecord(
            lab="web",
            name=node.name,
            key=f"k{number:05}",
            uuid=f"00000000-0000-4000-8000-{number:012}",
            uid=200000 + number,
            wanted=Wanted.RUNNING,
            state=NodeState.STOPPED,
            since=_NOW,
        )
        await tx.put_node(record)
    first = spec.nodes[0]
    publication = PublishSpec(address="127.0.0.1", host_port=0, port=22)
    await tx.put_publication(
        PublicationRecord(lab="web", node=first.name, spec=publication, chosen=40022)
    )
    await tx.put_lease(LeaseRecord(lab="web", address="10.0.0.10", network="lan"))
    await tx.put_lab_lease(
        LabLease(
            lab="web",
            stage=LeaseStage.RUNNING,
            due=1.7e9,
            boot_due=7200.0,
            boot_id="b",
            left=3600.0,
            keep=86400.0,
            warn=(900.0, 60.0),
            pending=(60.0,),
        )
    )
    nic = first.nics[0].name
    sends = Impairment(rate=1_000_000)
    await tx.put_link(LinkRecord(lab="web", node=first.name, nic=nic, down=True, sends=sends))
    done = OperationState.SUCCEEDED
    await tx.put_operation(
        OperationRecord(
            id="op-000000000001",
            kind=OperationKind.UP,
            request=UpRequest(memory={"web": 1 << 30}, before=("db",)),
            lab="web",
            state=done,
        )
    )


async def _library(tx: SqliteTransaction, spec: LabSpec) -> None:
    await tx.put_image(
        Image(name="tiny", digest=_DIGEST, format=ImageFormat.RAW, size=4711, created=_NOW)
    )
    await tx.put_profile(Profile(name="small", image="tiny", vcpus=2, memory=128 << 20))
    student = TokenLab(name="web", key=_LAB)
    await tx.put_token(
        TokenRecord(name="k.ann", role=Role.STUDENT, hash="4" * 64, labs=(student,), group="k")
    )
    await tx.put_plugin(PluginRecord(name="recorder", enabled=True, settings={"keep": 3}))
    saved = SavedNode(
        name=spec.nodes[0].name,
        kvm=False,
        memory=64 << 20,
        machine_type="pc-q35-7.2",
        fingerprint="f" * 64,
        image=_DIGEST,
        ram="1" * 64,
        ram_bytes=4096,
        state="2" * 64,
        disks=(SavedDisk(id="root", name="root.qcow2", layers=("3" * 64,)),),
    )
    await tx.put_checkpoint(
        CheckpointRecord(
            name="booted", key=_ORIGIN, lab="web", spec=spec, nodes=(saved,), qemu="7.2.22"
        )
    )
    await tx.put_pool(WarmPoolRecord(checkpoint=_ORIGIN, size=1, created=_NOW))
    waiting = NodeRecord(
        lab="pool.ffffff",
        name=spec.nodes[0].name,
        key="k10000",
        uuid="00000000-0000-4000-8000-000000010000",
        uid=210000,
        wanted=Wanted.RUNNING,
        state=NodeState.PAUSED,
        since=_NOW,
    )
    await tx.put_pool_member(
        WarmMember(
            key="ffffff",
            checkpoint=_ORIGIN,
            state=MemberState.READY,
            nodes=(waiting,),
            created=_NOW,
        )
    )
    await tx.put_class(
        ClassRecord(
            name="k",
            checkpoint=_ORIGIN,
            source="booted",
            students=(Student(name="ann", settings={"seed": "1"}),),
            spec=spec,
            first=_FIRST,
            lease=LeaseAsk(seconds=60.0),
            made={"ann": "eeeeee"},
        )
    )


def main() -> None:
    """Write it; its name has the number of the schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labd.db"
        asyncio.run(_write(path))
        connection = sqlite3.connect(path)
        connection.execute("UPDATE meta SET value=? WHERE name='host_id'", (_HOST,))
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        names = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        for (name,) in names:
            if not connection.execute(f"SELECT 1 FROM {name}").fetchone():  # noqa: S608
                raise SystemExit(f"table {name} has no row: write one in {__file__}")
        text = "\n".join(connection.iterdump())
        connection.close()
    said = f"-- An inventory of schema {version}, with a row or more in each table.\n"
    target = _GOLDEN / f"inventory-{version:04}.sql"
    target.write_text(f"{said}PRAGMA user_version={version};\n{text}\n")
    print(target)


if __name__ == "__main__":
    main()
