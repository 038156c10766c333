"""The shape of a template: pydantic models, which also make the JSON Schema.

Messages are made here from pydantic's error types, with the place of the part and what to write.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from labd.model.errors import InputError
from labd.model.names import NAME_PATTERN, did_you_mean, is_name
from labd.model.specs import (
    Accel,
    BootDevice,
    DependsOn,
    DiskBus,
    Display,
    Firmware,
    Machine,
    NicModel,
    RestartMode,
)
from labd.model.units import parse_duration, parse_size
from labd.template.document import Document, Problems

MAX_NODES = 500
_NAME_HELP = "use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("labd", "{message}", {"message": message})


def _name(value: object) -> object:
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    if not value.isprintable():
        raise _wrong("control characters and line ends are not allowed here")
    return value


def _argv(value: object) -> object:
    if isinstance(value, str) and value.strip():
        return value.split()
    if isinstance(value, list) and value and all(isinstance(i, str) and i for i in value):
        return value
    raise _wrong('write a command as a list of words, like [ping, -c, "1", server]')


def _needs(value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value, "ready")
    return value


def _restart(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


def _ready(value: object) -> object:
    return {"agent": True} if value == "agent" else value


Name = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
]
Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": "string"})]
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
Argv = Annotated[
    list[str],
    BeforeValidator(_argv),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Form(BaseModel):
    """A mapping without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=False, hide_input_in_errors=True)


class NetworkForm(Form):
    """One layer-2 segment."""

    subnet: Text = Field(
        default="", description="CIDR, like 10.0.1.0/24; addresses are checked against it"
    )
    uplink: Text = Field(default="none", description="none, nat or bridge:INTERFACE")
    mtu: int = Field(default=1500, ge=576, le=9216, strict=True, description="Bytes")


class LinkForm(NetworkForm):
    """A network with exactly two ends."""

    ends: list[Text] = Field(description="Two ends, each NODE:NIC")


class NicForm(Form):
    """A node's attachment to a network."""

    network: Name = Field(description="Name of a network or link")
    address: Text = Field(default="", description="Address with prefix length, like 10.0.1.10/24")
    addresses: list[Text] = Field(default_factory=list, description="Several addresses")
    mac: Text = Field(default="", description="Derived from the names when left out")
    gateway: Text = Field(default="", description="Address of the default route over this NIC")
    model: NicModel = Field(default=NicModel.VIRTIO, description="The card that the guest sees")


class DiskForm(Form):
    """A disk besides the image's."""

    size: Size = Field(description="Virtual size, like 1 GiB")
    bus: DiskBus | None = Field(default=None, description="How it is attached; the node's disk_bus")


class RouteForm(Form):
    """A static route of the guest."""

    to: Text = Field(description="CIDR, or default")
    via: Text = Field(description="Address of the next hop")


class RestartForm(Form):
    """When the watchdog plugin starts the node again."""

    mode: RestartMode = Field(
        default=RestartMode.ON_FAILURE, description="no, on-failure or always"
    )
    limit: int = Field(default=5, ge=1, le=1000, strict=True, description="Starts within window")
    window: Duration = Field(default=300.0, description="Like 5m")


class ReadyForm(Form):
    """How the node shows that it is ready; one of console, tcp, agent and command."""

    console: Text = Field(
        default="", max_length=200, description="Regular expression for a serial line"
    )
    tcp: int = Field(
        default=0, ge=0, le=65535, strict=True, description="Port of its first address"
    )
    agent: bool = Field(default=False, strict=True, description="The guest agent answers")
    command: Argv = Field(default_factory=list, description="Exits with 0, run by the agent")
    timeout: Duration = Field(default=180.0, description="Like 3m")


class NodeForm(Form):
    """One virtual machine, or with count several."""

    image: Text = Field(default="", description="Name of an image, or sha256:...")
    profile: Annotated[Name | None, Field(description="Name of a profile")] = None
    count: int = Field(default=1, ge=1, le=100, description="That many nodes: NAME-1, NAME-2...")
    vcpus: int | None = Field(default=None, ge=1, le=64, strict=True, description="Virtual CPUs")
    memory: Size | None = Field(default=None, description="Like 256 MiB")
    disk: Size | None = Field(default=None, description="Virtual size of the root disk")
    disks: dict[Name, DiskForm] = Field(default_factory=dict, description="Further disks by name")
    disk_bus: DiskBus = Field(default=DiskBus.VIRTIO, description="How disks are attached")
    firmware: Firmware = Field(default=Firmware.BIOS, description="bios or uefi")
    machine: Machine = Field(default=Machine.Q35, description="QEMU machine type")
    display: Display = Field(default=Display.NONE, description="none or vnc")
    boot: list[BootDevice] = Field(
        default_factory=lambda: [BootDevice.DISK, BootDevice.CDROM],
        description="What the firmware tries, in order",
    )
    accel: Accel = Field(default=Accel.AUTO, description="auto, kvm or tcg")
    restart: Annotated[RestartForm, BeforeValidator(_restart)] = Field(
        default_factory=lambda: RestartForm(mode=RestartMode.NO),
        description="Restart policy: a mode, or mode, limit and window",
    )
    cmdline: Text = Field(
        "", max_length=1024, description="Kernel command line, kernel images only"
    )
    nics: dict[Name, NicForm] = Field(default_factory=dict, description="Network cards by name")
    routes: list[RouteForm] = Field(default_factory=list, description="Static routes")
    forwarding: bool = Field(default=False, strict=True, description="Forward IP packets")
    commands: list[Argv] = Field(default_factory=list, description="Run at boot (tiny)")
    depends_on: Annotated[dict[Name, DependsOn], BeforeValidator(_needs)] = Field(
        default_factory=dict, description="Node: running or ready"
    )
    ready: Annotated[ReadyForm, BeforeValidator(_ready)] = Field(
        default_factory=ReadyForm, description="How it shows that it is ready"
    )


class ParameterForm(Form):
    """A parameter; for the schema only, the values are put in before."""

    type: Literal[
        "string", "integer", "number", "boolean", "size", "duration", "name", "choice"
    ] = Field(default="string", description="What it may be")
    default: str | int | float | bool | None = Field(
        default=None, description="Left out: must be given"
    )
    description: str = Field(default="", description="For people")
    choices: list[str] = Field(default_factory=list, description="With type: choice")


class LabForm(Form):
    """A lab template."""

    name: Name = Field(description="Name of the template, and of the lab unless --name says other")
    description: str = Field(default="", max_length=2000, description="For people")
    parameters: dict[str, str] = Field(default_factory=dict, description="Set by --set key=value")
    networks: dict[Name, NetworkForm] = Field(default_factory=dict, description="By name")
    links: dict[Name, LinkForm] = Field(default_factory=dict, description="Two-ended, by name")
    nodes: dict[Name, NodeForm] = Field(
        min_length=1, max_length=MAX_NODES, description="Virtual machines by name"
    )


_MODELS: dict[str, type[Form]] = {
    "networks": NetworkForm,
    "links": LinkForm,
    "nodes": NodeForm,
    "nics": NicForm,
    "disks": DiskForm,
    "routes": RouteForm,
    "restart": RestartForm,
    "ready": ReadyForm,
}


def check_form(document: Document, problems: Problems) -> LabForm:
    """Return the form of plain data; what is wrong goes to `problems`."""
    _drop_empty(document.data)
    try:
        return LabForm.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=True):
            _tell(detail, document, problems)
    return LabForm.model_construct()


def _drop_empty(data: dict[str, Any]) -> None:
    """Take `lan:` without a value for `lan: {}`, and a section without a value for none."""
    for section in ("networks", "links", "parameters"):
        if section in data and data[section] is None:
            data[section] = {}
        if isinstance(data.get(section), dict):
            data[section] = {k: {} if v is None else v for k, v in data[section].items()}


def _tell(detail: ErrorDetails, document: Document, problems: Problems) -> None:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]
    context = detail.get("ctx", {})
    where = _where(path)
    if kind == "extra_forbidden":
        known = _model_at(path[:-1]).model_fields
        key = str(path[-1])
        message = f"unknown key '{key[:64]}' in {_where(path[:-1])}{did_you_mean(key, known)}"
        problems.add(message, document.key_place(path))
        return
    if kind == "missing":
        key = str(path[-1])
        problems.add(f"{_where(path[:-1])} needs the key '{key}'", document.key_place(path[:-1]))
        return
    text = _text_of(kind, detail["msg"], context)
    place = document.key_place(path) if "[key]" in detail["loc"] else document.place(path)
    problems.add(f"{where}: {text}", place)


def _text_of(kind: str, message: str, context: dict[str, Any]) -> str:
    simple = {
        "int_type": "write a whole number",
        "int_from_float": "write a whole number",
        "int_parsing": "write a whole number",
        "bool_type": "write true or false",
        "string_type": "write text",
        "list_type": "write a list, like [a, b]",
        "dict_type": "write a mapping, like {key: value}",
        "model_type": "write a mapping, like {key: value}",
        "model_attributes_type": "write a mapping, like {key: value}",
    }
    if kind in simple:
        return simple[kind]
    if kind == "enum":
        return f"must be {str(context.get('expected', '')).replace(chr(39), '')}"
    if kind == "labd":
        return str(context["message"])
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = context.get("ge", context.get("le"))
        return f"must be {'at least' if 'ge' in context else 'at most'} {bound}"
    if kind == "too_short":
        return f"needs {context.get('min_length')} or more"
    if kind in {"too_long", "string_too_long"}:
        return f"is too long: {context.get('max_length')} at most"
    return message


def _where(path: tuple[str | int, ...]) -> str:
    """Say a path in words: `node client, nic eth0, mac`."""
    nouns = {
        "nodes": "node",
        "networks": "network",
        "links": "link",
        "nics": "nic",
        "disks": "disk",
    }
    words: list[str] = []
    parts = list(path)
    while parts:
        part = parts.pop(0)
        if part in nouns and parts:
            words.append(f"{nouns[str(part)]} {str(parts.pop(0))[:64]}")
        elif isinstance(part, int):
            words.append(f"entry {part + 1}")
        else:
            words.append(str(part)[:64])
    return ", ".join(words) or "the template"


def _model_at(path: tuple[str | int, ...]) -> type[Form]:
    for part in reversed(path):
        if part in _MODELS:
            return _MODELS[str(part)]
    return LabForm
