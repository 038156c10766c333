"""The shape of a template: pydantic models of which everything else about keys is made.

To add a key, declare it by `key` in the form that it belongs to (here, or in `node_parts` or
`network_form`), with its type, default, help and effect, and give the spec (`labd/model/specs.py`)
a field of the same name. Then it is parsed, refused with its place, copied, shown by `lab plan`,
and acted upon by its effect. `make docs-tables` writes it into the JSON Schema and
docs/templates.md. What a shape cannot say is checked in `compile` and its neighbours.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from labd.model.kinds import DEFAULT_KIND
from labd.model.specs import (
    MAX_VCPUS,
    Accel,
    BootDevice,
    DependsOn,
    DiskBus,
    Display,
    Firmware,
    Machine,
    RestartMode,
)
from labd.template.file_form import FileForm, GuestPath
from labd.template.keys import Effect, Form, key
from labd.template.network_form import LinkForm, NetworkForm
from labd.template.node_parts import (
    CloudInitForm,
    DiskForm,
    NicForm,
    ReadyForm,
    RestartForm,
    RouteForm,
)
from labd.template.values import (
    MAX_ENTRIES,
    MAX_WORD,
    NAME_SCHEMA,
    Also,
    Argv,
    Flag,
    Name,
    OrEmpty,
    Prose,
    Size,
    Text,
    Whole,
    to_empty,
    to_needs,
    to_ready,
    to_restart,
)

MAX_NODES: Final = 500
MAX_COUNT: Final = 100
EMPTY_DRIVE: Final = "empty"  # in place of the name of an image
MAX_NICS: Final = 16
_MAX_DISKS = 12


class NodeForm(Form):
    """One node, or several with count."""

    kind: Name = key(
        "What runs it; `vm` is a virtual machine",
        effect=Effect.RESTART,
        default=DEFAULT_KIND,
    )
    image: Text = key(
        "Name of an image (`lab image ls`), or sha256: and its digest",
        effect=Effect.RESTART,
        default="",
    )
    profile: Name | None = key(
        "Name of a profile, which says image, vcpus, memory and disk",
        effect=Effect.RESTART,
        default=None,
        more="`lab profile ls`; one of `image` and `profile` must be there",
    )
    count: Whole = key(
        "That many nodes, NAME-1, NAME-2...; ${index} is the number, addresses go up",
        effect=Effect.NONE,
        default=1,
        ge=1,
        le=MAX_COUNT,
        more="see [Many of a kind](#many-of-a-kind); copies that stay run on",
    )
    vcpus: Annotated[Whole, Field(ge=1, le=MAX_VCPUS)] | None = key(
        "Virtual CPUs; left out: 1",
        effect=Effect.RESTART,
        default=None,
        shown="the profile's, or 1",
    )
    memory: Size | None = key(
        "Like 512 MiB; left out: 256 MiB",
        effect=Effect.RESTART,
        default=None,
        shown="the profile's, or 256 MiB",
    )
    disk: Size | None = key(
        "Virtual size of the root disk; left out: the image's",
        effect=Effect.RESTART,
        default=None,
        shown="the profile's, or the image's",
        more="it stays for as long as the node has this image",
    )
    disks: dict[Name, DiskForm] = key(
        "Further disks, by name",
        effect=Effect.LIVE,
        noun="disk",
        default_factory=dict,
        max_length=_MAX_DISKS,
        more="20 characters at most: `{data: {size: 1 GiB, bus: virtio}}`. Empty at first, kept by "
        "`lab down`; a disk never changes its size",
    )
    disk_bus: DiskBus = key(
        "How disks are attached",
        effect=Effect.RESTART,
        default=DiskBus.VIRTIO,
        more="the root disk, and `disks` that do not say: `virtio`, `ide` or `scsi`",
    )
    cdrom: Text | None = key(
        "Name of an ISO image in a CD-ROM drive, or empty for a drive without a disc",
        effect=Effect.LIVE,
        default=None,
        shown="none",
        more="see [devices](devices.md)",
    )
    firmware: Firmware = key("bios or uefi", effect=Effect.RESTART, default=Firmware.BIOS)
    machine: Machine = key(
        "pc, q35, or microvm: quick, virtio only, no PCI",
        effect=Effect.RESTART,
        default=Machine.Q35,
    )
    display: Display = key(
        "none or vnc",
        effect=Effect.RESTART,
        default=Display.NONE,
        more="a screen for `lab screenshot`, `lab type` and `lab vnc`",
    )
    boot: list[BootDevice] = key(
        "What the firmware tries, in this order",
        effect=Effect.RESTART,
        default_factory=lambda: [BootDevice.DISK, BootDevice.CDROM],
        more="`disk`, `cdrom`, `network`",
    )
    accel: Accel = key(
        "auto: KVM where it really works, else emulation (tcg)",
        effect=Effect.RESTART,
        default=Accel.AUTO,
        more="or `kvm`, or `tcg`",
    )
    restart: Annotated[
        RestartForm,
        BeforeValidator(to_restart),
        Also(({"enum": [str(mode) for mode in RestartMode]},)),
    ] = key(
        "When it is started again: a mode, or mode, limit and window",
        effect=Effect.NONE,
        default_factory=lambda: RestartForm(mode=RestartMode.NO),
        shown="`no`",
        more="by the watchdog plugin: `no`, `on-failure`, `always`",
    )
    cmdline: Text = key(
        "Added to the kernel command line; kernel images only",
        effect=Effect.RESTART,
        default="",
        max_length=MAX_WORD,
    )
    nics: dict[Name, OrEmpty[NicForm]] = key(
        "Network cards, by name",
        effect=Effect.LIVE,
        noun="nic",
        default_factory=dict,
        max_length=MAX_NICS,
        more="see below; 16 at most",
    )
    routes: list[RouteForm] = key(
        "Static routes",
        effect=Effect.RESTART,
        noun="route",
        default_factory=list,
        max_length=MAX_ENTRIES,
        more="of the guest: `[{to: 10.0.9.0/24, via: 10.0.1.1}]`; `to` may be `default`",
    )
    forwarding: Flag = key("The guest forwards IP packets", effect=Effect.RESTART, default=False)
    commands: list[Argv] = key(
        "Run by the guest at boot, in this order (image tiny)",
        effect=Effect.RESTART,
        default_factory=list,
        max_length=MAX_ENTRIES,
        more='others by cloud-init: `[[ip, link, show], [sh, -c, "date > /tmp/now"]]`',
    )
    files: OrEmpty[dict[GuestPath, FileForm]] = key(
        "Files that the guest agent writes after each boot, by their paths",
        effect=Effect.NONE,
        noun="file",
        default_factory=dict,
        max_length=MAX_ENTRIES,
        more='`{/etc/motd: {content: "hello"}, /root/run: {content: "…", mode: "0755"}}`',
    )
    startup: list[Argv] = key(
        "Run by the guest agent after each boot, in this order; then it is ready",
        effect=Effect.NONE,
        default_factory=list,
        max_length=MAX_ENTRIES,
        more="behind `files`; all must end well: `[[systemctl, restart, nginx]]`",
    )
    on_fork: list[Argv] = key(
        "Run by the guest agent in a copy that starts from a checkpoint",
        effect=Effect.FORK,
        default_factory=list,
        max_length=MAX_ENTRIES,
        more="before it is ready; see [checkpoints.md](checkpoints.md)",
    )
    depends_on: Annotated[
        dict[Name, DependsOn],
        BeforeValidator(to_needs),
        Also(({"type": "array", "items": NAME_SCHEMA, "description": "Until all are ready"},)),
    ] = key(
        "Nodes it waits for, and until they are running or ready",
        effect=Effect.NONE,
        default_factory=dict,
    )
    publish: list[Text] = key(
        "TCP ports of the host that lead to it, [HOST:]HOSTPORT:PORT; 0: labd chooses",
        effect=Effect.NONE,
        default_factory=list,
        max_length=MAX_ENTRIES,
        more='`["8080:80", "127.0.0.1:0:22"]`; see [access.md](access.md#published-ports)',
    )
    cloud_init: Annotated[CloudInitForm | None, BeforeValidator(to_empty)] = key(
        "What cloud-init is told at the first boot; image debian gets it in any case",
        effect=Effect.RESTART,
        default=None,
        long=True,
        more="see [below](#cloud-init)",
    )
    ready: Annotated[ReadyForm, BeforeValidator(to_ready), Also(({"enum": ["agent"]},))] = key(
        "How it shows that it is ready; left out: as its image says",
        effect=Effect.NONE,
        default_factory=ReadyForm,
        shown="as the image says",
        more="see [below](#ready)",
    )


class LabForm(Form):
    """A lab template."""

    name: Name = key(
        "Name of the template, and of the lab unless --name says other",
        more="MAC addresses derive from it",
    )
    description: Prose = key("For people", default="", max_length=2000)
    parameters: OrEmpty[dict[str, str]] = key(
        "What --set NAME=VALUE sets; ${NAME} puts it in",
        default_factory=dict,
        more="see [Parameters](#parameters)",
    )
    networks: OrEmpty[dict[Name, OrEmpty[NetworkForm]]] = key(
        "Layer-2 segments, by name", noun="network", default_factory=dict
    )
    links: OrEmpty[dict[Name, LinkForm]] = key(
        "Segments with exactly two ends, by name", noun="link", default_factory=dict
    )
    chapters: list[Name] = key(
        "Checkpoints, in the order of an exercise: `lab chapter next`",
        default_factory=list,
        max_length=MAX_ENTRIES,
        more="see [checkpoints.md](checkpoints.md#chapters)",
    )
    nodes: dict[Name, NodeForm] = key(
        "Virtual machines, by name", noun="node", min_length=1, more="1 to 500"
    )
