"""What goes over the wire. Keys are stable; sizes are bytes, times RFC 3339 UTC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from labd.model.differences import Mismatch
from labd.model.lab_leases import KEEP, WARNINGS, LeaseStage
from labd.model.names import NAME_PATTERN
from labd.model.records import OperationKind, Wanted
from labd.model.specs import MAX_VCPUS, Firmware, ImageFormat, LabSpec, NodeSpec
from labd.model.states import LabState, NetworkState, NodeState, OperationState, PluginState

OPTIONAL_NAME_PATTERN = NAME_PATTERN.replace("^", "^(").replace("$", ")?$")

LabName = Annotated[str, Path(pattern=NAME_PATTERN)]
NodeName = Annotated[str, Path(pattern=NAME_PATTERN)]
ImageName = Annotated[str, Path(pattern=NAME_PATTERN)]
ProfileName = Annotated[str, Path(pattern=NAME_PATTERN)]
PluginName = Annotated[str, Path(pattern=NAME_PATTERN)]
TemplateName = Annotated[str, Path(pattern=NAME_PATTERN)]
OperationId = Annotated[str, Path(pattern="^op-[0-9a-f]{12}$")]

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern="^([0-9a-fA-F]{64})?$")]
Json = Mapping[str, Any]

_SECONDS = 7 * 86400.0


class Wire(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """Base of all request bodies: what is not known is refused, numbers are not read from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Problem(Wire):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One line: what happened, and what to do next")
    code: str = Field(description="Stable; the class of the error")
    details: dict[str, Any] = Field(description="Facts for programs")


# templates


class TemplateText(Body):
    """A lab template, and the values for its parameters."""

    text: str = Field(max_length=512 * 1024)
    file: str = Field(default="template", max_length=4096, description="For messages only")
    settings: dict[str, str] = {}


class ParametersText(Body):
    """A lab template."""

    text: str = Field(max_length=512 * 1024)
    file: str = Field(default="template", max_length=4096, description="For messages only")


class Compiled(Wire):
    """A template that is right."""

    name: str
    description: str
    nodes: list[str]
    networks: list[str]
    spec: LabSpec


class Parameters(Wire):
    """Parameters that a template declares."""

    parameters: list[dict[str, Any]]


class TemplateBrief(Wire):
    """A shipped template."""

    name: str
    file: str
    description: str
    problem: str


class Templates(Wire):
    """The shipped templates."""

    templates: list[TemplateBrief]


class Template(Wire):
    """A shipped template with its text."""

    name: str
    file: str
    text: str


# labs


class LeaseTerm(Body):
    """A lease: one of `seconds` and `until`."""

    seconds: float | None = Field(default=None, ge=-1e10, le=1e10, description="From now on")
    until: str = Field(default="", max_length=64, description="RFC 3339 with a zone")
    keep: float = Field(
        default=KEEP, ge=-1e10, le=1e10, description="Seconds from the end to the destruction"
    )
    warn: list[Annotated[float, Field(ge=-1e10, le=1e10)]] = Field(
        default=list(WARNINGS),
        max_length=10,
        description="Seconds before the end at which an event warns",
    )


class Up(TemplateText):
    """Bring a lab up to what a template says."""

    keep: bool = Field(default=False, description="Leave what a failed up has made")
    force: bool = Field(
        default=False, description="Power nodes that an edit restarts off without asking them"
    )
    timeout: float | None = Field(default=None, gt=0, le=_SECONDS, description="Seconds")
    lease: LeaseTerm | None = Field(default=None, description="That it has from now on")


ActionKind = Literal["down", "destroy", "start", "stop", "restart", "pause", "resume", "reset"]


class Action(Body):
    """Do something to a lab, or to some of its nodes."""

    action: ActionKind
    nodes: list[Name] = Field(default=[], max_length=500)
    force: bool = Field(default=False, description="Power off without asking the guest")
    grace: float = Field(default=20.0, ge=0, le=3600, description="Seconds a guest has to obey")


class Operation(Wire):
    """One accepted request."""

    id: str
    kind: OperationKind
    lab: str
    state: OperationState
    progress: dict[str, Any] = Field(description="`done`, `total`, `text`")
    error: dict[str, Any] | None = Field(description="`code`, `message`, … when it failed")
    created: str
    finished: str


class Operations(Wire):
    """Operations, the newest first."""

    operations: list[Operation]


class NodeBrief(Wire):
    """A node in a list."""

    name: str
    state: NodeState
    reason: str
    since: str


class LabBrief(Wire):
    """A lab in a list."""

    name: str
    key: str
    template: str
    state: LabState
    wanted: Wanted
    reason: str
    created: str
    origin: str = Field(description="Key of the checkpoint it was started from, or empty")
    nodes: list[NodeBrief]


class Labs(Wire):
    """All labs by name."""

    labs: list[LabBrief]


class Node(Wire):
    """A node, as it is and as it shall be."""

    lab: str
    name: str
    state: NodeState
    wanted: Wanted
    reason: str
    since: str
    key: str
    uuid: str
    uid: int
    pid: int | None = Field(description="Of its QEMU; null while there is none")
    starts: int
    accel: str = Field(description="`kvm`, `tcg`, or empty before the first start")
    vcpus: int | None = Field(description="Of the last start; null before it")
    memory: int | None = Field(description="Bytes, of the last start; null before it")
    addresses: list[str] = Field(description="As the template gives them")
    spec: NodeSpec | None = Field(description="Null for a node that the lab's spec has no more")


class Network(Wire):
    """A network of a lab."""

    name: str
    bridge: str
    state: NetworkState
    subnet: str
    uplink: str
    members: list[str]


class Lease(Wire):
    """Until when a lab may run."""

    lab: str
    stage: LeaseStage = Field(description="`ended`: it is stopped, and waits for its destruction")
    ends: str
    destroys: str
    left: float = Field(description="Seconds until it ends; 0 when it has")
    keep: float = Field(description="Seconds from the end to the destruction")
    warn: list[float] = Field(description="Seconds before the end at which an event warns")


class Published(Wire):
    """A port of the host that leads to a node."""

    node: str
    address: str = Field(description="Of the host")
    host_port: int
    port: int = Field(description="Of the node")


class Lab(Wire):
    """A lab, whole."""

    name: str
    key: str
    template: str
    state: LabState
    wanted: Wanted
    reason: str
    created: str
    origin: str = Field(description="Key of the checkpoint it was started from, or empty")
    nodes: list[Node]
    networks: list[Network]
    published: list[Published]
    lease: Lease | None = Field(description="Until when it may run; null: for ever")
    operation: Operation | None = Field(description="The one that holds the lab now")
    spec: LabSpec


class Change(Wire):
    """One step of a plan."""

    action: str
    kind: str
    name: str
    why: str


class Plan(Wire):
    """What `up` would do, in order."""

    changes: list[Change]


# events


class Events(Wire):
    """Events, as CloudEvents 1.0 records."""

    events: list[dict[str, Any]]
    first: int = Field(description="The lowest seq that is kept")
    last: int = Field(description="The highest seq; 0 when there was no event yet")
    next: int = Field(description="`after` of the next page; equals `last` when there is no more")


# images and profiles


class Image(Wire):
    """An image of the store."""

    name: str
    format: ImageFormat
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


class Images(Wire):
    """All images by name."""

    images: list[Image]


class ImageUse(Image):
    """An image, and who needs it."""

    used_by: list[str]


class ImportImage(Body):
    """Have labd fetch an image."""

    name: Name
    url: str = Field(max_length=4096, pattern="^https?://")
    format: Annotated[ImageFormat | None, Field(strict=False)] = None
    sha256: Sha256 = ""


class BuildImage(Body):
    """Have labd build an image from a recipe."""

    recipe: Name
    name: Annotated[str, Field(pattern=OPTIONAL_NAME_PATTERN)] = ""


class NewProfile(Body):
    """A VM template of the catalogue."""

    image: Name
    vcpus: int = Field(default=1, ge=1, le=MAX_VCPUS)
    memory: int = Field(default=256 << 20, ge=1 << 20, le=1 << 44, description="Bytes")
    disk: int | None = Field(default=None, ge=1 << 20, le=1 << 50, description="Bytes")
    firmware: Annotated[Firmware, Field(strict=False)] = Firmware.BIOS
    description: str = Field(default="", max_length=500)


class Profile(Wire):
    """A VM template of the catalogue."""

    name: str
    image: str
    vcpus: int
    memory: int
    disk: int | None
    firmware: Firmware
    description: str


class Profiles(Wire):
    """All profiles by name."""

    profiles: list[Profile]


# plugins


class SetPlugin(Body):
    """Enable a plugin with settings, or disable it."""

    enabled: bool
    settings: dict[str, Any] = {}


class Plugin(Wire):
    """An installed plugin."""

    name: str
    description: str
    version: str
    events: list[str]
    scopes: list[str]
    settings_schema: dict[str, Any]
    enabled: bool
    settings: dict[str, Any]
    state: PluginState
    restarts: int
    problem: str


class Plugins(Wire):
    """All installed plugins."""

    plugins: list[Plugin]


# host


class Info(Wire):
    """Facts about the daemon; more keys may come."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str


class Finding(Wire):
    """One thing that the doctor looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str


class Difference(Wire):
    """One thing on which the kernel, the folders and the inventory do not agree."""

    kind: Mismatch
    name: str
    text: str
    remedy: str = Field(description="what a repair does about it; empty: a person must")
    repaired: bool


class Differences(Wire):
    """What `lab fsck` found."""

    differences: list[Difference]


class Findings(Wire):
    """What the doctor found."""

    findings: list[Finding]
