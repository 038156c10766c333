"""All rows but the events, as values in memory.

Records are immutable, so that a table is a dict, and a transaction works on a copy that takes the
place of the committed one when SQLite has it on the disk. Reads need no I/O and no lock.
"""

from __future__ import annotations

from labd.inventory import lease_rows, rows
from labd.inventory.database import Database
from labd.model.checkpoints import CheckpointRecord
from labd.model.classes import ClassRecord
from labd.model.events import EventDraft, EventType
from labd.model.images import Image, Profile
from labd.model.lab_leases import LabLease
from labd.model.links import LinkRecord
from labd.model.people import Owned, TokenRecord
from labd.model.pools import WarmMember, WarmPoolRecord
from labd.model.records import (
    LabRecord,
    LeaseRecord,
    NodeRecord,
    OperationRecord,
    PluginRecord,
    PublicationRecord,
)
from labd.model.states import OperationState


class Tables:
    """The rows at one moment.

    Attributes:
        labs: By name.
        nodes: By lab, then name.
        keys: Machine key -> (lab, name).
        operations: By id, the oldest first.
        publications: By `rows.publication_key`, which begins with the lab.
        links: By `rows.link_key`, which begins with the lab.
        images, profiles, plugins, checkpoints, tokens: By name.
        lab_leases: By lab.
        classes: By name.
        pools: By key of the checkpoint.
        pool_members: By key, the oldest first.
        leases: By `lease_rows.lease_key`, which does so too.
    """

    def __init__(self) -> None:
        self.labs: dict[str, LabRecord] = {}
        self.nodes: dict[str, dict[str, NodeRecord]] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.operations: dict[str, OperationRecord] = {}
        self.images: dict[str, Image] = {}
        self.profiles: dict[str, Profile] = {}
        self.plugins: dict[str, PluginRecord] = {}
        self.publications: dict[rows.PublicationKey, PublicationRecord] = {}
        self.checkpoints: dict[str, CheckpointRecord] = {}
        self.lab_leases: dict[str, LabLease] = {}
        self.classes: dict[str, ClassRecord] = {}
        self.pools: dict[str, WarmPoolRecord] = {}
        self.pool_members: dict[str, WarmMember] = {}
        self.tokens: dict[str, TokenRecord] = {}
        self.leases: dict[lease_rows.LeaseKey, LeaseRecord] = {}
        self.links: dict[tuple[str, str, str], LinkRecord] = {}

    @classmethod
    async def load(cls, database: Database) -> Tables:
        """Read every row.

        Raises:
            StorageFailed: The database did.
        """
        tables = cls()
        for row in await database.rows(rows.SELECT_LABS):
            lab = rows.lab_of(row)
            tables.labs[lab.name] = lab
        for row in await database.rows(rows.SELECT_NODES):
            tables.put_node(rows.node_of(row))
        for row in await database.rows(rows.SELECT_OPERATIONS):
            operation = rows.operation_of(row)
            tables.operations[operation.id] = operation
        for (text,) in await database.rows(rows.SELECT_IMAGES):
            image: Image = rows.load(Image, text)
            tables.images[image.name] = image
        for (text,) in await database.rows(rows.SELECT_PROFILES):
            profile: Profile = rows.load(Profile, text)
            tables.profiles[profile.name] = profile
        for row in await database.rows(rows.SELECT_PLUGINS):
            plugin = rows.plugin_of(row)
            tables.plugins[plugin.name] = plugin
        for row in await database.rows(rows.SELECT_PUBLICATIONS):
            publication = rows.publication_of(row)
            tables.publications[rows.publication_key(publication)] = publication
        await tables._load_forks(database)
        for (text,) in await database.rows(rows.SELECT_TOKENS):
            token: TokenRecord = rows.load(TokenRecord, text)
            tables.tokens[token.name] = token
        for row in await database.rows(lease_rows.SELECT_LEASES):
            lease = lease_rows.lease_of(row)
            tables.leases[lease_rows.lease_key(lease)] = lease
        for (text,) in await database.rows(rows.SELECT_LINKS):
            link: LinkRecord = rows.load(LinkRecord, text)
            tables.links[rows.link_key(link)] = link
        return tables

    async def _load_forks(self, database: Database) -> None:
        """Read what checkpoints, leases, classes and warm pools are."""
        for (text,) in await database.rows(rows.SELECT_CHECKPOINTS):
            checkpoint: CheckpointRecord = rows.load(CheckpointRecord, text)
            self.checkpoints[checkpoint.name] = checkpoint
        for (text,) in await database.rows(rows.SELECT_LAB_LEASES):
            term: LabLease = rows.load(LabLease, text)
            self.lab_leases[term.lab] = term
        for (text,) in await database.rows(rows.SELECT_CLASSES):
            group: ClassRecord = rows.load(ClassRecord, text)
            self.classes[group.name] = group
        for (text,) in await database.rows(rows.SELECT_POOLS):
            pool: WarmPoolRecord = rows.load(WarmPoolRecord, text)
            self.pools[pool.checkpoint] = pool
        for (text,) in await database.rows(rows.SELECT_POOL_MEMBERS):
            member: WarmMember = rows.load(WarmMember, text)
            self.pool_members[member.key] = member

    def copy(self) -> Tables:
        """Return tables that can be changed; thousands of rows take some microseconds."""
        new = Tables()
        new.labs = self.labs.copy()
        new.nodes = self.nodes.copy()  # the dict of a lab is copied when it is changed
        new.keys = self.keys.copy()
        new.operations = self.operations.copy()
        new.images = self.images.copy()
        new.profiles = self.profiles.copy()
        new.plugins = self.plugins.copy()
        new.publications = self.publications.copy()
        new.checkpoints = self.checkpoints.copy()
        new.classes = self.classes.copy()
        new.pools = self.pools.copy()
        new.pool_members = self.pool_members.copy()
        new.tokens = self.tokens.copy()
        new.lab_leases = self.lab_leases.copy()
        new.leases = self.leases.copy()
        new.links = self.links.copy()
        return new

    def put_node(self, node: NodeRecord) -> NodeRecord | None:
        """Insert or replace a node; return the one that it replaces."""
        old = self.nodes.get(node.lab, {}).get(node.name)
        if old is not None:
            self.keys.pop(old.key, None)
        self.nodes[node.lab] = {**self.nodes.get(node.lab, {}), node.name: node}
        self.keys[node.key] = (node.lab, node.name)
        return old

    def delete_node(self, lab: str, name: str) -> None:
        """Delete a node, if it is there."""
        members = dict(self.nodes.get(lab, {}))
        old = members.pop(name, None)
        if old is not None:
            self.keys.pop(old.key, None)
            self.nodes[lab] = members

    def delete_lab(self, name: str) -> None:
        """Delete a lab with its nodes, if it is there."""
        self.labs.pop(name, None)
        self.lab_leases.pop(name, None)
        for node in self.nodes.pop(name, {}).values():
            self.keys.pop(node.key, None)
        for key in [key for key in self.publications if key[0] == name]:
            del self.publications[key]
        for lease in [lease for lease in self.leases if lease[0] == name]:
            del self.leases[lease]
        for link in [link for link in self.links if link[0] == name]:
            del self.links[link]

    def of(self, draft: EventDraft) -> Owned | None:
        """Return whose it is what something happened to; None when it is in none of the rows."""
        lab = self.labs.get(draft.lab)
        if lab is not None:
            return Owned(owner=lab.owner, key=lab.key)
        operation = self.operations.get(draft.operation)
        if operation is not None:
            return operation.of
        kind = draft.type.partition(".")[0]
        if kind == "class" and (group := self.classes.get(draft.subject)) is not None:
            return Owned(owner=group.owner)
        if draft.type is EventType.CHECKPOINT_REMOVED:
            found = self.checkpoints.get(draft.subject)
            return Owned(owner=found.owner) if found is not None else None
        return None

    def nodes_of(self, lab: str | None) -> list[NodeRecord]:
        """Return the nodes of one lab or all, in the order of lab and name."""
        labs = sorted(self.nodes) if lab is None else [lab]
        return [
            members[name]
            for members in (self.nodes.get(each, {}) for each in labs)
            for name in sorted(members)
        ]

    def finished_operations(self) -> list[str]:
        """Return the ids of the operations that do not run, the oldest first."""
        return [
            operation.id
            for operation in self.operations.values()
            if operation.state is not OperationState.RUNNING
        ]
