"""What the API answers, for type checkers. docs/api.md and /openapi.json say more."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Event = dict[str, Any]
Spec = dict[str, Any]
ActionName = Literal["down", "destroy", "start", "stop", "restart", "pause", "resume", "reset"]


class Operation(TypedDict):
    """One accepted request."""

    id: str
    kind: str
    lab: str
    state: str
    progress: dict[str, Any]
    error: dict[str, Any] | None
    created: str
    finished: str


class NodeBrief(TypedDict):
    """A node in a list."""

    name: str
    state: str
    reason: str
    since: str


class LabBrief(TypedDict):
    """A lab in a list."""

    name: str
    key: str
    template: str
    state: str
    wanted: str
    reason: str
    created: str
    origin: str
    nodes: list[NodeBrief]


class Node(TypedDict):
    """A node; memory in bytes."""

    lab: str
    name: str
    state: str
    wanted: str
    reason: str
    since: str
    key: str
    uuid: str
    uid: int
    pid: int | None
    starts: int
    accel: str
    vcpus: int | None
    memory: int | None
    addresses: list[str]
    spec: Spec | None


class SshKey(TypedDict):
    """The SSH key pair of a lab."""

    public: str
    private: str


class Published(TypedDict):
    """A port of the host that leads to a node."""

    node: str
    address: str
    host_port: int
    port: int


class Lease(TypedDict):
    """Until when a lab may run."""

    lab: str
    stage: str
    ends: str
    destroys: str
    left: float
    keep: float
    warn: list[float]


class Activity(TypedDict):
    """When somebody did something with a lab last; `idle` in seconds."""

    lab: str
    running: bool
    since: str
    last: str
    idle: float | None
    source: str | None
    sources: dict[str, float]
    rate: float


class Network(TypedDict):
    """A network of a lab."""

    name: str
    bridge: str
    state: str
    subnet: str
    uplink: str
    members: list[str]


class Lab(TypedDict):
    """A lab, whole."""

    name: str
    key: str
    template: str
    state: str
    wanted: str
    reason: str
    created: str
    origin: str
    nodes: list[Node]
    networks: list[Network]
    published: list[Published]
    lease: Lease | None
    operation: Operation | None
    spec: Spec


class NodeAddress(TypedDict):
    """An address that a node has; `source` is agent, lease or neighbour."""

    node: str
    nic: str
    mac: str
    address: str
    source: str


class LogLine(TypedDict):
    """A line of a node; `source` is console or qemu."""

    source: str
    position: int
    time: str
    text: str
    whole: bool


class Change(TypedDict):
    """One step of a plan."""

    action: str
    kind: str
    name: str
    why: str


class Compiled(TypedDict):
    """A template that is right."""

    name: str
    description: str
    nodes: list[str]
    networks: list[str]
    spec: Spec


class TemplateBrief(TypedDict):
    """A shipped template."""

    name: str
    file: str
    description: str
    problem: str


class Template(TypedDict):
    """A shipped template with its text."""

    name: str
    file: str
    text: str


class EventPage(TypedDict):
    """Some events."""

    events: list[Event]
    first: int
    last: int
    next: int


class Image(TypedDict):
    """An image; sizes in bytes."""

    name: str
    format: str
    digest: str
    size: int
    virtual_size: int
    files: list[str]
    cmdline: str
    ready_pattern: str
    agent: bool
    cloud_init: bool
    created: str
    source: str
    used_by: NotRequired[list[str]]


class Profile(TypedDict):
    """A profile; memory and disk in bytes."""

    name: str
    image: str
    vcpus: int
    memory: int
    disk: int | None
    firmware: str
    description: str


class Plugin(TypedDict):
    """An installed plugin."""

    name: str
    description: str
    version: str
    events: list[str]
    scopes: list[str]
    settings_schema: dict[str, Any]
    enabled: bool
    settings: dict[str, Any]
    state: str
    restarts: int
    problem: str


class Difference(TypedDict):
    """Something on which kernel, folders and inventory do not agree."""

    kind: str
    name: str
    text: str
    remedy: str
    repaired: bool


class Finding(TypedDict):
    """One thing that the doctor looked at."""

    name: str
    level: str
    text: str
    advice: str
