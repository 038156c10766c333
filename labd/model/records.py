"""Rows of the inventory as values: what labd wants, and what it last knew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from labd.model.errors import RequestUnreadable
from labd.model.machine import MachineSpec
from labd.model.people import Owned
from labd.model.process import ProcessId
from labd.model.requests import OperationKind as OperationKind  # noqa: PLC0414 - a part of the record
from labd.model.requests import Request, Unreadable
from labd.model.specs import LabSpec, PublishSpec
from labd.model.states import LabState, NodeState, OperationState

_R = TypeVar("_R", bound=Request)


class Wanted(StrEnum):
    """Intent: written before anything is done, and what the reconciler works towards."""

    RUNNING = "running"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRecord:
    """A lab.

    Attributes:
        name: Unique in the inventory.
        key: Short id, `[a-z0-9]{6}`, unique for ever in this root; names namespace and folders.
        spec: What it shall be.
        previous: The spec before a change that is not finished yet, to go back to.
        wanted: Intent for the whole lab.
        state: Derived.
        reason: One sentence why it is in this state, or empty.
        created: RFC 3339 UTC.
        origin: Key of the checkpoint from which it was started; empty for one that was booted.
        owner: The instructor whose it is; empty: the administrators'.
    """

    name: str
    key: str
    spec: LabSpec
    wanted: Wanted
    state: LabState
    previous: LabSpec | None = None
    reason: str = ""
    created: str = ""
    origin: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node.

    Attributes:
        lab, name: Address.
        key: Short id, unique for ever in this root.
        uuid: The machine's UUID; new with every key, kept over restarts.
        uid: The process's user id, unique among the nodes of this root.
        wanted: Intent for this node.
        state: As last seen.
        since: RFC 3339 UTC of the last change of state.
        reason: One sentence why, or empty.
        process: Set while a QEMU process is known; None otherwise.
        machine: As launched last; None before the first start.
        starts: Number of launches.
    """

    lab: str
    name: str
    key: str
    uuid: str
    uid: int
    wanted: Wanted
    state: NodeState
    since: str = ""
    reason: str = ""
    process: ProcessId | None = None
    machine: MachineSpec | None = None
    starts: int = 0


def by_lab(nodes: Iterable[NodeRecord]) -> dict[str, list[NodeRecord]]:
    """Return name of a lab -> its nodes, without the labs that have none."""
    found: dict[str, list[NodeRecord]] = {}
    for node in nodes:
        found.setdefault(node.lab, []).append(node)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationRecord:
    """A port of the host at which labd listens for a node.

    Attributes:
        lab, node: Whose port it leads to.
        spec: As the template has it.
        chosen: The port of the host; that of the spec, or the one that was chosen for its 0.
    """

    lab: str
    node: str
    spec: PublishSpec
    chosen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """An address that labd's server gave out, as it was told last.

    Attributes:
        lab: In which.
        address: Without prefix length.
        network: In whose subnet it is.
        mac: Of the client, empty when it is not known.
        name: That it has, or empty.
        node, nic: Of the lab, with this MAC; empty for a stranger.
    """

    lab: str
    address: str
    network: str = ""
    mac: str = ""
    name: str = ""
    node: str = ""
    nic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """One accepted request.

    Attributes:
        id: `op-` and 12 hex digits.
        kind: What.
        lab: The lab that it holds, or empty (image operations).
        request: What was asked for, enough to go on after a crash.
        state: Life.
        progress: JSON-compatible; `done`, `total` (steps, or bytes for imports), `text`.
        error: `{"code", "message", ...}` when failed, else None.
        created, finished: RFC 3339 UTC, `finished` empty while running.
        of: Whose the lab was then, as another one may have its name by now.
    """

    id: str
    kind: OperationKind
    request: Request | Unreadable
    lab: str = ""
    state: OperationState = OperationState.RUNNING
    progress: Mapping[str, object] = field(default_factory=dict)
    error: Mapping[str, object] | None = None
    created: str = ""
    finished: str = ""
    of: Owned = field(default_factory=Owned)

    def request_as(self, request: type[_R]) -> _R:
        """Return the request, which is of a class or one that is derived from it.

        Raises:
            RequestUnreadable: It is another, or could not be read.
        """
        if isinstance(self.request, request):
            return self.request
        why = self.request.why if isinstance(self.request, Unreadable) else "it is of another kind"
        raise RequestUnreadable(
            f"what was asked for by {self.id} cannot be read: {why}; labd did not carry it on: see "
            f"`lab status{f' {self.lab}' if self.lab else ''}`, and ask for it again",
            operation=self.id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """An enabled or once enabled plugin.

    Attributes:
        name: As in its manifest.
        enabled: Intent.
        settings: Validated by the manifest's schema.
        token_hash: sha256 hex of its API token; empty before the first start.
    """

    name: str
    enabled: bool
    settings: Mapping[str, object] = field(default_factory=dict)
    token_hash: str = ""
