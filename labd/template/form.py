"""The shape of a template: pydantic models, which also make the JSON Schema.

What is wrong is told by `complaints`. Texts in `description` are those of the JSON Schema.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from labd.model.errors import InputError
from labd.model.names import NAME_PATTERN, is_name
from labd.model.specs import (
    MAX_VCPUS,
    Accel,
    BootDevice,
    DependsOn,
    DiskBus,
    Display,
    Firmware,
    Gateway,
    Machine,
    NicModel,
    PortSecurity,
    RestartMode,
)
from labd.model.units import parse_duration, parse_size
from labd.template.file_form import FileForm, GuestPath
from labd.template.link_form import ImpairForm, LinkState
from labd.template.patterns import MAX_LENGTH

MAX_NODES: Final = 500
MAX_COUNT: Final = 100
EMPTY_DRIVE: Final = "empty"  # in place of the name of an image
MAX_NICS: Final = 16
_MAX_DISKS = 12
_MAX_ENTRIES = 64  # of lists that have no limit of their own
_MAX_WORD = 1024  # characters
_MAX_CLOUD_CONFIG = 32 << 10  # characters
_NAME_HELP = "use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("labd", "{message}", {"message": message})


def _name(value: object) -> object:
    if value is None:
        raise _wrong(f"write a name; {_NAME_HELP}")
    if not is_name(value):
        raise _wrong(f"'{str(value)[:64]}' is not a valid name: {_NAME_HELP}")
    return value


def _size(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise _wrong(f"write a size with a unit, like {value:g} MiB")
    if not isinstance(value, str):
        raise _wrong("write a size with a unit, like 256 MiB")
    try:
        size = parse_size(value)
    except InputError as error:
        raise _wrong(error.message) from error
    if not value.strip()[-1:].isalpha():
        raise _wrong(f"write a size with a unit, like {value.strip()} MiB")
    return size


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong("write a duration, like 90s or 5m")
    try:
        return parse_duration(str(value))
    except InputError as error:
        raise _wrong(error.message) from error


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)  # as parameters come
    raise _wrong("write a whole number")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"  # as parameters come
    raise _wrong("write true or false")  # yes, no, on and off are words in YAML 1.2


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    if not value.isprintable():
        raise _wrong("control characters and line ends are not allowed here")
    return value


def _prose(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    return _text(value.replace("\n", " ").rstrip())


def _argv(value: object) -> list[str]:
    if isinstance(value, str):
        if set(value) & set("|&;<>$`*?"):
            raise _wrong("no shell reads it; write [sh, -c, ...] for one that does")
        try:
            value = shlex.split(value)
        except ValueError:
            raise _wrong("a quote is not closed") from None
    if not isinstance(value, list) or not value:
        raise _wrong('write a command as a list of words, like [ping, -c, "1", server]')
    for word in value:
        if not isinstance(word, str) or not word:
            raise _wrong(f"'{str(word)[:64]}' is no word; put numbers and the like in quotes")
        if not word.isprintable():
            raise _wrong("control characters and line ends are not allowed here")
    if len(value) > _MAX_ENTRIES or any(len(word) > _MAX_WORD for word in value):
        raise _wrong(f"has at most {_MAX_ENTRIES} words of at most {_MAX_WORD} characters")
    return list(value)


def _needs(value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value, DependsOn.READY)
    if not isinstance(value, dict):
        raise _wrong("write names of nodes, like [db, web] or {db: ready, web: running}")
    return value


def _restart(value: object) -> object:
    if not isinstance(value, str | dict):
        raise _wrong("write no, on-failure or always, or a mapping, like {limit: 3}")
    return {"mode": value} if isinstance(value, str) else value


def _ready(value: object) -> object:
    if value != "agent" and not isinstance(value, dict):
        raise _wrong("write agent, or a mapping, like {console: 'login:'}")
    return {"agent": True} if value == "agent" else value


def _served(value: object) -> object:
    """Take true for a mapping without keys, and false for none."""
    if isinstance(value, dict) or value is None:
        return value
    try:
        return {} if _flag(value) else None
    except PydanticCustomError:
        raise _wrong("write true, or a mapping") from None


def _values(value: object) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise _wrong("write a mapping, like {ntp-server: 10.0.1.1}")
    found = {}
    for key, item in value.items():
        items = item if isinstance(item, list) else [item]
        if any(isinstance(one, bool) or not isinstance(one, str | int) for one in items):
            raise _wrong(f"'{str(key)[:64]}' must be a text, a number or a list of addresses")
        found[str(key)] = [_text(str(one)) for one in items]
    return found


def _cloud_config(value: object) -> object:
    if value is None:
        return ""
    if not isinstance(value, str | dict):
        raise _wrong("write a text of YAML, user_data: |, or a mapping")
    if isinstance(value, str) and len(value) > _MAX_CLOUD_CONFIG:
        raise _wrong(f"is too long: {_MAX_CLOUD_CONFIG} characters at most")
    return value


def _empty(value: object) -> object:
    """Take `lan:` without a value for `lan: {}`."""
    return {} if value is None else value


Name = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
]
Text = Annotated[str, BeforeValidator(_text)]
Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "examples": ["256 MiB", "10 GiB"]}),
]
Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["90s", "5m"]}),
]
Whole = Annotated[int, BeforeValidator(_whole)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Prose = Annotated[str, BeforeValidator(_prose)]
Argv = Annotated[
    list[str],
    BeforeValidator(_argv),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]

_Item = TypeVar("_Item")
OrEmpty = Annotated[_Item, BeforeValidator(_empty)]


class Form(BaseModel):
    """A mapping without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=False, hide_input_in_errors=True)


class AllowForm(Form):
    """What guests behind NAT may reach although it is the host's."""

    to: Text = Field(description="host, or an IPv4 address or subnet, like 192.0.2.10")
    tcp: list[Port] = Field(default_factory=list, max_length=_MAX_ENTRIES, description="TCP ports")
    udp: list[Port] = Field(default_factory=list, max_length=_MAX_ENTRIES, description="UDP ports")


Values = Annotated[
    dict[str, list[str]],
    BeforeValidator(_values),
    Field(max_length=_MAX_ENTRIES),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": ["string", "integer", "array"]}}
    ),
]


class DhcpForm(Form):
    """Addresses that labd gives to guests."""

    range: list[Text] = Field(
        default_factory=list,
        max_length=2,
        description="First and last address for guests without one of their own; left out: the "
        "upper half of the subnet",
    )
    lease: Duration = Field(default=3600.0, description="How long an address is given, like 1h")
    options: Values = Field(
        default_factory=dict, description="DHCP options by name or number, like ntp-server"
    )


class DnsForm(Form):
    """Names that labd answers."""

    domain: Text = Field(default="lab", description="Nodes are NODE and NODE.DOMAIN in it")
    records: Values = Field(default_factory=dict, description="Further names and their addresses")


_SERVED = BeforeValidator(_served)


def _or_flag(schema: dict[str, Any]) -> None:
    """Let the JSON Schema have true and false besides the mapping, as `_served` does."""
    schema["anyOf"].append({"type": "boolean"})


class NetworkForm(Form):
    """One layer-2 segment."""

    subnet: Text = Field(
        default="", description="CIDR, like 10.0.1.0/24; addresses are checked against it"
    )
    subnet6: Text = Field(default="", description="A second subnet, IPv6, like fd00:1::/64")
    dhcp: Annotated[DhcpForm | None, _SERVED] = Field(
        default=None,
        description="Have labd give out addresses: true, or how",
        json_schema_extra=_or_flag,
    )
    dns: Annotated[DnsForm | None, _SERVED] = Field(
        default=None,
        description="Have labd answer names of nodes: true, or how",
        json_schema_extra=_or_flag,
    )
    uplink: Text = Field(
        default="none", description="How it leaves the lab: none, nat or bridge:INTERFACE"
    )
    vlan: Whole = Field(
        default=0, ge=0, le=4094, description="802.1Q tag on the uplink bridge; 0: untagged"
    )
    allow: list[AllowForm] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="What guests may reach of the host with uplink nat; left out: nothing",
    )
    mtu: Whole = Field(default=1500, ge=576, le=9216, description="Bytes")
    gateway: Gateway | None = Field(
        default=None,
        description="Who routes it: labd, node or none; left out: labd with uplink nat, else none",
    )
    gateway_address: Text = Field(
        default="", description="Of the gateway; left out: the first host address of the subnet"
    )
    port_security: PortSecurity = Field(
        default=PortSecurity.NONE,
        description="What NICs are held to: none, mac, or address, which is MAC and IP addresses",
    )
    trusted: list[Text] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="NICs that port_security lets send anything, each NODE:NIC",
    )


class LinkForm(NetworkForm):
    """A network with exactly two ends. A NIC that a node does not have yet is added to it."""

    ends: list[Text] = Field(
        description="The two ends, each NODE:NIC, like router:eth1",
        json_schema_extra={"minItems": 2, "maxItems": 2},
    )
    impair: ImpairForm | None = Field(
        default=None, description="What happens to frames, both ways; `lab link set` changes it"
    )
    state: LinkState | None = Field(
        default=None, description="up, or down: both ends have no carrier; left out: up"
    )


class NicForm(Form):
    """A node's attachment to a network."""

    network: Name | None = Field(
        default=None, description="Name of a network; may be left out at the end of a link"
    )
    address: Text = Field(
        default="",
        description="Address with prefix length, like 10.0.1.10/24; or dhcp: the guest asks for it",
    )
    addresses: list[Text] = Field(
        default_factory=list, max_length=_MAX_ENTRIES, description="Several addresses"
    )
    mac: Text = Field(default="", description="Left out: derived from template, node and NIC")
    gateway: Text = Field(
        default="",
        description="Address of the default route over this NIC, or none; left out: its network's",
    )
    model: NicModel = Field(default=NicModel.VIRTIO, description="The card that the guest sees")
    impair: ImpairForm | None = Field(
        default=None, description="What happens to the frames that the node sends over it"
    )
    state: LinkState | None = Field(
        default=None, description="up, or down: the guest sees no carrier; left out: up"
    )


class DiskForm(Form):
    """A disk besides the image's: empty at first, and kept by `lab down`."""

    size: Size = Field(description="Virtual size, like 1 GiB")
    bus: DiskBus | None = Field(
        default=None, description="How it is attached; left out: as disk_bus of the node"
    )


class RouteForm(Form):
    """A static route of the guest."""

    to: Text = Field(description="Subnet, like 10.0.2.0/24, or default")
    via: Text = Field(description="Address of the next hop, in a subnet of the node")


class RestartForm(Form):
    """When the watchdog plugin starts the node again."""

    mode: RestartMode = Field(
        default=RestartMode.ON_FAILURE, description="no, on-failure or always"
    )
    limit: Whole = Field(default=5, ge=1, le=1000, description="Starts within window, then no more")
    window: Duration = Field(default=300.0, description="Like 5m")


class ReadyForm(Form):
    """How the node shows that it is ready: one of console, tcp, agent and command."""

    console: Text = Field(
        default="",
        description="Regular expression that is found in a line of the serial output",
        json_schema_extra={"maxLength": MAX_LENGTH},
    )
    tcp: Whole = Field(default=0, ge=0, le=65535, description="Port of the node's first address")
    agent: Flag = Field(default=False, description="The guest agent answers")
    command: Argv = Field(
        default_factory=list, description="Run by the guest agent until its exit status is 0"
    )
    timeout: Duration = Field(
        default=180.0, description="From the start of the node; then its start has failed"
    )


class CloudInitForm(Form):
    """What cloud-init in the node is told. Keys and network config are added when left out."""

    user_data: Annotated[
        str | dict[str, Any],
        BeforeValidator(_cloud_config),
        WithJsonSchema({"type": ["string", "object"]}),
    ] = Field(default="", description="Cloud-config: a text of YAML (`user_data: |`), or a mapping")
    meta_data: Annotated[dict[str, Any], BeforeValidator(_empty)] = Field(
        default_factory=dict, description="Further meta-data; instance-id and name are labd's"
    )
    network_config: dict[str, Any] | None = Field(
        default=None,
        description="Network config of version 1 or 2; left out: made from the NICs",
    )


class NodeForm(Form):
    """One virtual machine, or several with count."""

    image: Text = Field(
        default="", description="Name of an image (`lab image ls`), or sha256: and its digest"
    )
    profile: Name | None = Field(
        default=None, description="Name of a profile, which says image, vcpus, memory and disk"
    )
    count: Whole = Field(
        default=1,
        ge=1,
        le=MAX_COUNT,
        description="That many nodes, NAME-1, NAME-2...; ${index} is the number, addresses go up",
    )
    vcpus: Annotated[Whole, Field(ge=1, le=MAX_VCPUS)] | None = Field(
        default=None, description="Virtual CPUs; left out: 1"
    )
    memory: Size | None = Field(default=None, description="Like 512 MiB; left out: 256 MiB")
    disk: Size | None = Field(
        default=None, description="Virtual size of the root disk; left out: the image's"
    )
    disks: dict[Name, DiskForm] = Field(
        default_factory=dict, max_length=_MAX_DISKS, description="Further disks, by name"
    )
    disk_bus: DiskBus = Field(default=DiskBus.VIRTIO, description="How disks are attached")
    cdrom: Text | None = Field(
        default=None,
        description="Name of an ISO image in a CD-ROM drive, or empty for a drive without a disc",
    )
    firmware: Firmware = Field(default=Firmware.BIOS, description="bios or uefi")
    machine: Machine = Field(
        default=Machine.Q35, description="pc, q35, or microvm: quick, virtio only, no PCI"
    )
    display: Display = Field(default=Display.NONE, description="none or vnc")
    boot: list[BootDevice] = Field(
        default_factory=lambda: [BootDevice.DISK, BootDevice.CDROM],
        description="What the firmware tries, in this order",
    )
    accel: Accel = Field(
        default=Accel.AUTO, description="auto: KVM where it really works, else emulation (tcg)"
    )
    restart: Annotated[RestartForm, BeforeValidator(_restart)] = Field(
        default_factory=lambda: RestartForm(mode=RestartMode.NO),
        description="When it is started again: a mode, or mode, limit and window",
    )
    cmdline: Text = Field(
        default="",
        max_length=_MAX_WORD,
        description="Added to the kernel command line; kernel images only",
    )
    nics: dict[Name, OrEmpty[NicForm]] = Field(
        default_factory=dict, max_length=MAX_NICS, description="Network cards, by name"
    )
    routes: list[RouteForm] = Field(
        default_factory=list, max_length=_MAX_ENTRIES, description="Static routes"
    )
    forwarding: Flag = Field(default=False, description="The guest forwards IP packets")
    commands: list[Argv] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="Run by the guest at boot, in this order (image tiny)",
    )
    files: Annotated[dict[GuestPath, FileForm], BeforeValidator(_empty)] = Field(
        default_factory=dict,
        max_length=_MAX_ENTRIES,
        description="Files that the guest agent writes after each boot, by their paths",
    )
    startup: list[Argv] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="Run by the guest agent after each boot, in this order; then it is ready",
    )
    on_fork: list[Argv] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="Run by the guest agent in a copy that starts from a checkpoint",
    )
    depends_on: Annotated[dict[Name, DependsOn], BeforeValidator(_needs)] = Field(
        default_factory=dict, description="Nodes it waits for, and until they are running or ready"
    )
    publish: list[Text] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="TCP ports of the host that lead to it, [HOST:]HOSTPORT:PORT; 0: labd chooses",
    )
    cloud_init: Annotated[CloudInitForm | None, BeforeValidator(_empty)] = Field(
        default=None,
        description="What cloud-init is told at the first boot; image debian gets it in any case",
    )
    ready: Annotated[ReadyForm, BeforeValidator(_ready)] = Field(
        default_factory=ReadyForm,
        description="How it shows that it is ready; left out: as its image says",
    )


class LabForm(Form):
    """A lab template."""

    name: Name = Field(description="Name of the template, and of the lab unless --name says other")
    description: Prose = Field(default="", max_length=2000, description="For people")
    parameters: Annotated[dict[str, str], BeforeValidator(_empty)] = Field(
        default_factory=dict, description="What --set NAME=VALUE sets; ${NAME} puts it in"
    )
    networks: Annotated[dict[Name, OrEmpty[NetworkForm]], BeforeValidator(_empty)] = Field(
        default_factory=dict, description="Layer-2 segments, by name"
    )
    links: Annotated[dict[Name, LinkForm], BeforeValidator(_empty)] = Field(
        default_factory=dict, description="Segments with exactly two ends, by name"
    )
    chapters: list[Name] = Field(
        default_factory=list,
        max_length=_MAX_ENTRIES,
        description="Checkpoints, in the order of an exercise: `lab chapter next`",
    )
    nodes: dict[Name, NodeForm] = Field(min_length=1, description="Virtual machines, by name")
