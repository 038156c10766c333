"""Records to SQL and back; pure.

Values that are read whole (specs, machines, settings) are JSON text through pydantic's TypeAdapter,
which knows the stdlib dataclasses of `labd.model`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter

from labd.inventory import requests
from labd.inventory.copies import EVENT_INTO
from labd.inventory.database import Statement
from labd.inventory.disk_rows import with_refs
from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.events import Event, EventDraft, EventType
from labd.model.images import Image, Profile
from labd.model.lab_leases import LabLease
from labd.model.links import LinkRecord
from labd.model.machine import MachineSpec
from labd.model.people import Owned, TokenRecord
from labd.model.pools import WarmMember, WarmPoolRecord
from labd.model.process import ProcessId
from labd.model.records import (
    LabRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
    Wanted,
)
from labd.model.specs import LabSpec, PublishSpec
from labd.model.states import LabState, NodeState, OperationState

Row = tuple[Any, ...]


_T = TypeVar("_T")
# In tuples of one, because pydantic takes no config for a bare dataclass; and a machine's `config`
# is bytes of any kind, not UTF-8.
_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ADAPTERS: dict[type[object], TypeAdapter[Any]] = {
    LabSpec: TypeAdapter(tuple[LabSpec], config=_BYTES),
    MachineSpec: TypeAdapter(tuple[MachineSpec], config=_BYTES),
    Image: TypeAdapter(tuple[Image], config=_BYTES),
    Profile: TypeAdapter(tuple[Profile], config=_BYTES),
    CheckpointRecord: TypeAdapter(tuple[CheckpointRecord], config=_BYTES),
    ClassRecord: TypeAdapter(tuple[ClassRecord], config=_BYTES),
    LabLease: TypeAdapter(tuple[LabLease], config=_BYTES),
    LinkRecord: TypeAdapter(tuple[LinkRecord], config=_BYTES),
    WarmPoolRecord: TypeAdapter(tuple[WarmPoolRecord], config=_BYTES),
    WarmMember: TypeAdapter(tuple[WarmMember], config=_BYTES),
    TokenRecord: TypeAdapter(tuple[TokenRecord], config=_BYTES),
}

_WITH_DISKS = (MachineSpec, WarmMember)


def dump(
    value: LabSpec
    | MachineSpec
    | Image
    | Profile
    | CheckpointRecord
    | LabLease
    | LinkRecord
    | ClassRecord
    | WarmPoolRecord
    | WarmMember
    | TokenRecord,
) -> str:
    """Return a value of `labd.model` as JSON text."""
    return _ADAPTERS[type(value)].dump_json((value,)).decode()


def load(kind: type[_T], text: str) -> _T:
    """Return the value of class `kind` that `dump` wrote, here or in an older labd."""
    if kind in _WITH_DISKS:
        text = with_refs(text)
    value: _T = _ADAPTERS[kind].validate_json(text)[0]
    return value


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _upsert(table: str, keys: str, columns: str) -> str:
    names = [name.strip() for name in f"{keys}, {columns}".split(",")]
    changes = ", ".join(f"{n.strip()}=excluded.{n.strip()}" for n in columns.split(","))
    # Not INSERT OR REPLACE: that deletes the row first, and a lab's nodes with it.
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - names of this file
        f"ON CONFLICT ({keys}) DO UPDATE SET {changes}"
    )


_LAB = _upsert("labs", "name", "key, wanted, state, reason, created, origin, owner, spec, previous")
_LAB_LIGHT = (
    "UPDATE labs SET key=?, wanted=?, state=?, reason=?, created=?, origin=?, owner=? WHERE name=?"
)
_NODE_LIGHT_COLUMNS = "key, uuid, uid, wanted, state, since, reason, starts, pid, ticks, boot_id"
_NODE = _upsert("nodes", "lab, name", _NODE_LIGHT_COLUMNS + ", machine")
_NODE_LIGHT = (
    "UPDATE nodes SET "  # noqa: S608 - names of this file
    + ", ".join(f"{name}=?" for name in _NODE_LIGHT_COLUMNS.split(", "))
    + " WHERE lab=? AND name=?"
)
_OPERATION = _upsert(
    "operations",
    "id",
    "kind, lab, state, created, finished, request, progress, error, owner, lab_key",
)
_IMAGE = _upsert("images", "name", "digest, record")
_PROFILE = _upsert("profiles", "name", "image, record")
_CHECKPOINT = _upsert("checkpoints", "name", "key, record")
_CLASS = _upsert("classes", "name", "record")
_TOKEN = _upsert("tokens", "name", "hash, record")
_LAB_LEASE = _upsert("lab_leases", "lab", "record")
_PLUGIN = _upsert("plugins", "name", "enabled, settings, token_hash")
_META = _upsert("meta", "name", "value")
_EVENT = (
    f"{EVENT_INTO}(seq, time, type, lab, node, operation, subject, data, owner, lab_key) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

SELECT_LABS = (
    "SELECT name, key, wanted, state, reason, created, origin, owner, spec, previous FROM labs"
)
SELECT_NODES = f"SELECT lab, name, {_NODE_LIGHT_COLUMNS}, machine FROM nodes"  # noqa: S608
SELECT_OPERATIONS = (
    "SELECT id, kind, lab, state, created, finished, request, progress, error, owner, lab_key "
    "FROM operations ORDER BY n"
)
SELECT_IMAGES = "SELECT record FROM images"
SELECT_PROFILES = "SELECT record FROM profiles"
SELECT_CHECKPOINTS = "SELECT record FROM checkpoints"
SELECT_CLASSES = "SELECT record FROM classes"
SELECT_TOKENS = "SELECT record FROM tokens"
SELECT_LAB_LEASES = "SELECT record FROM lab_leases"
SELECT_PLUGINS = "SELECT name, enabled, settings, token_hash FROM plugins"
SELECT_META = "SELECT name, value FROM meta"
SELECT_EVENTS = (
    "SELECT seq, time, type, lab, node, operation, subject, data, owner, lab_key FROM events "
    "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)
SELECT_EVENT_BOUNDS = "SELECT min(seq), max(seq) FROM events"


def put_lab(lab: LabRecord, old: LabRecord | None) -> Statement:
    """Return the statement that writes a lab; specs that `old` has too are not written again."""
    light = (lab.key, lab.wanted, lab.state, lab.reason, lab.created, lab.origin, lab.owner)
    if old is not None and old.spec is lab.spec and old.previous is lab.previous:
        return _LAB_LIGHT, (*light, lab.name)
    previous = dump(lab.previous) if lab.previous is not None else None
    return _LAB, (lab.name, *light, dump(lab.spec), previous)


def lab_of(row: Row) -> LabRecord:
    """Return the lab of a row of SELECT_LABS."""
    name, key, wanted, state, reason, created, origin, owner, spec, previous = row
    return LabRecord(
        name=name,
        key=key,
        spec=load(LabSpec, spec),
        wanted=Wanted(wanted),
        state=LabState(state),
        previous=load(LabSpec, previous) if previous is not None else None,
        reason=reason,
        created=created,
        origin=origin,
        owner=owner,
    )


def put_node(node: NodeRecord, old: NodeRecord | None) -> Statement:
    """Return the statement that writes a node; a machine that `old` has too is left as it is."""
    p = node.process
    process = (p.pid, p.start_time_ticks, p.boot_id) if p is not None else (None, None, None)
    light = (
        node.key,
        node.uuid,
        node.uid,
        node.wanted,
        node.state,
        node.since,
        node.reason,
        node.starts,
        *process,
    )
    if old is not None and old.machine is node.machine:
        return _NODE_LIGHT, (*light, node.lab, node.name)
    machine = dump(node.machine) if node.machine is not None else None
    return _NODE, (node.lab, node.name, *light, machine)


def node_of(row: Row) -> NodeRecord:
    """Return the node of a row of SELECT_NODES."""
    lab, name, key, uuid, uid, wanted, state, since, reason, starts, *rest = row
    pid, ticks, boot_id, machine = rest
    process = None
    if pid is not None:
        process = ProcessId(pid=pid, start_time_ticks=ticks, boot_id=boot_id)
    return NodeRecord(
        lab=lab,
        name=name,
        key=key,
        uuid=uuid,
        uid=uid,
        wanted=Wanted(wanted),
        state=NodeState(state),
        since=since,
        reason=reason,
        process=process,
        machine=load(MachineSpec, machine) if machine is not None else None,
        starts=starts,
    )


def put_operation(operation: OperationRecord) -> Statement:
    """Return the statement that writes an operation."""
    return _OPERATION, (
        operation.id,
        operation.kind,
        operation.lab,
        operation.state,
        operation.created,
        operation.finished,
        requests.write(operation.request),
        _json(dict(operation.progress)),
        _json(dict(operation.error)) if operation.error is not None else None,
        operation.of.owner,
        operation.of.key,
    )


def operation_of(row: Row) -> OperationRecord:
    """Return the operation of a row of SELECT_OPERATIONS."""
    id_, column, lab, state, created, finished, text, progress, error, owner, key = row
    kind, request = requests.read(column, text)
    return OperationRecord(
        id=id_,
        kind=kind,
        lab=lab,
        request=request,
        state=OperationState(state),
        progress=json.loads(progress),
        error=json.loads(error) if error is not None else None,
        created=created,
        finished=finished,
        of=Owned(owner=owner, key=key),
    )


def put_image(image: Image) -> Statement:
    """Return the statement that writes an image."""
    return _IMAGE, (image.name, image.digest, dump(image))


def put_profile(profile: Profile) -> Statement:
    """Return the statement that writes a profile."""
    return _PROFILE, (profile.name, profile.image, dump(profile))


def put_checkpoint(record: CheckpointRecord) -> Statement:
    """Return the statement that writes a checkpoint."""
    return _CHECKPOINT, (record.name, record.key, dump(record))


def put_class(record: ClassRecord) -> Statement:
    """Return the statement that writes a class."""
    return _CLASS, (record.name, dump(record))


def put_token(token: TokenRecord) -> Statement:
    """Return the statement that writes a token."""
    return _TOKEN, (token.name, token.hash, dump(token))


def put_lab_lease(lease: LabLease) -> Statement:
    """Return the statement that writes the lease of a lab."""
    return _LAB_LEASE, (lease.lab, dump(lease))


def put_plugin(plugin: PluginRecord) -> Statement:
    """Return the statement that writes a plugin."""
    settings = _json(dict(plugin.settings))
    return _PLUGIN, (plugin.name, int(plugin.enabled), settings, plugin.token_hash)


def plugin_of(row: Row) -> PluginRecord:
    """Return the plugin of a row of SELECT_PLUGINS."""
    name, enabled, settings, token_hash = row
    return PluginRecord(
        name=name, enabled=bool(enabled), settings=json.loads(settings), token_hash=token_hash
    )


def put_meta(name: str, value: str) -> Statement:
    """Return the statement that writes a fact on the inventory itself."""
    return _META, (name, value)


def put_event(
    seq: int, time: str, source: str, draft: EventDraft, of: Owned
) -> tuple[Statement, Event]:
    """Return the statement that writes an event, and the event as it will be read back."""
    h = draft
    text = _json(dict(h.data))
    # Read back, so that what the caller does to its own dict later is not seen by anybody.
    frozen: Mapping[str, object] = json.loads(text)
    kept = EventDraft(
        type=h.type,
        lab=h.lab,
        node=h.node,
        operation=h.operation,
        subject=h.subject,
        data=frozen,
    )
    event = Event(seq=seq, time=time, source=source, draft=kept, owner=of.owner, lab_key=of.key)
    row = (seq, time, h.type, h.lab, h.node, h.operation, h.subject, text, of.owner, of.key)
    return (_EVENT, row), event


def event_of(row: Row, source: str) -> Event:
    """Return the event of a row of SELECT_EVENTS."""
    seq, time, kind, lab, node, operation, subject, data, owner, key = row
    draft = EventDraft(
        type=EventType(kind),
        lab=lab,
        node=node,
        operation=operation,
        subject=subject,
        data=json.loads(data),
    )
    return Event(seq=seq, time=time, source=source, draft=draft, owner=owner, lab_key=key)


# lab, node, address, host port as asked for, port of the node
PublicationKey = tuple[str, str, str, int, int]

SELECT_PUBLICATIONS = "SELECT lab, node, address, host_port, port, chosen FROM publications"
_PUBLICATION = _upsert("publications", "lab, node, address, host_port, port", "chosen")


def publication_key(record: PublicationRecord) -> PublicationKey:
    """Return what names a publication."""
    spec = record.spec
    return record.lab, record.node, spec.address, spec.host_port, spec.port


def put_publication(record: PublicationRecord) -> Statement:
    """Insert or replace."""
    return _PUBLICATION, (*publication_key(record), record.chosen)


def delete_publication(record: PublicationRecord) -> Statement:
    """Delete."""
    return (
        "DELETE FROM publications WHERE lab=? AND node=? AND address=? AND host_port=? AND port=?",
        publication_key(record),
    )


def publication_of(row: Row) -> PublicationRecord:
    """Return the record of a row of `SELECT_PUBLICATIONS`."""
    lab, node, address, host_port, port, chosen = row
    spec = PublishSpec(address=address, host_port=host_port, port=port)
    return PublicationRecord(lab=lab, node=node, spec=spec, chosen=chosen)


SELECT_LINKS = "SELECT record FROM wires"
_LINK = _upsert("wires", "lab, node, nic", "record")


def link_key(record: LinkRecord) -> tuple[str, str, str]:
    """Return what names a NIC's link."""
    return record.lab, record.node, record.nic


def put_link(record: LinkRecord) -> Statement:
    """Insert or replace."""
    return _LINK, (*link_key(record), dump(record))


def delete_link(record: LinkRecord) -> Statement:
    """Delete."""
    return "DELETE FROM wires WHERE lab=? AND node=? AND nic=?", link_key(record)


SELECT_POOLS = "SELECT record FROM pools"
SELECT_POOL_MEMBERS = "SELECT record FROM pool_members ORDER BY rowid"
_POOL = _upsert("pools", "checkpoint", "record")
_POOL_MEMBER = _upsert("pool_members", "key", "record")


def put_pool(record: WarmPoolRecord) -> Statement:
    """Insert or replace."""
    return _POOL, (record.checkpoint, dump(record))


def put_pool_member(record: WarmMember) -> Statement:
    """Insert or replace."""
    return _POOL_MEMBER, (record.key, dump(record))
