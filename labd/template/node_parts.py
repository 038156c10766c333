"""The shape of what a node is made of: NICs, disks, routes, readiness and the like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from labd.model.specs import DiskBus, NicModel, RestartMode
from labd.template.keys import Effect, Form, key
from labd.template.link_form import ImpairForm, LinkState
from labd.template.patterns import MAX_LENGTH
from labd.template.values import (
    MAX_CLOUD_CONFIG,
    MAX_ENTRIES,
    Argv,
    Duration,
    Flag,
    Name,
    OrEmpty,
    Size,
    Text,
    Whole,
    to_cloud_config,
)


class NicForm(Form):
    """A node's attachment to a network."""

    network: Name | None = key(
        "Name of a network; may be left out at the end of a link",
        effect=Effect.RESTART,
        default=None,
    )
    address: Text = key(
        "Address with prefix length, like 10.0.1.10/24; or dhcp: the guest asks for it",
        effect=Effect.RESTART,
        default="",
        more="image `tiny` does",
    )
    addresses: list[Text] = key(
        "Several addresses",
        effect=Effect.RESTART,
        default_factory=list,
        max_length=MAX_ENTRIES,
        more='`[10.0.1.10/24, "fd00::10/64"]`',
    )
    mac: Text = key(
        "Left out: derived from template, node and NIC",
        effect=Effect.RESTART,
        default="",
        shown="derived",
        more="so all labs of a template have the same",
    )
    gateway: Text = key(
        "Address of the default route over this NIC, or none; left out: its network's",
        effect=Effect.RESTART,
        default="",
        shown="as its network says",
        more="one for IPv4 and one for IPv6 in a node",
    )
    model: NicModel = key(
        "The card that the guest sees",
        effect=Effect.RESTART,
        default=NicModel.VIRTIO,
        more="`virtio`, `e1000`, `e1000e` or `rtl8139`",
    )
    impair: ImpairForm | None = key(
        "What happens to the frames that the node sends over it",
        effect=Effect.LIVE,
        spec="sends",
        default=None,
        shown="nothing",
        more="like `{rate: 10mbit, loss: 1%}`, see [Networks](networks.md#state-of-links)",
    )
    state: LinkState | None = key(
        "up, or down: the guest sees no carrier; left out: up",
        effect=Effect.LIVE,
        spec="down",
        default=None,
        shown="`up`",
    )


class DiskForm(Form):
    """A disk besides the image's: empty at first, and kept by `lab down`."""

    size: Size = key("Virtual size, like 1 GiB")
    bus: DiskBus | None = key(
        "How it is attached; left out: as disk_bus of the node",
        default=None,
        shown="as `disk_bus` of the node",
    )


class RouteForm(Form):
    """A static route of the guest."""

    to: Text = key("Subnet, like 10.0.2.0/24, or default")
    via: Text = key("Address of the next hop, in a subnet of the node")


class RestartForm(Form):
    """When the watchdog plugin starts the node again."""

    mode: RestartMode = key("no, on-failure or always", default=RestartMode.ON_FAILURE)
    limit: Whole = key("Starts within window, then no more", default=5, ge=1, le=1000)
    window: Duration = key("Like 5m", default=300.0, shown="`5m`")


class ReadyForm(Form):
    """How the node shows that it is ready: one of console, tcp, agent and command."""

    console: Text = key(
        "Regular expression that is found in a line of the serial output",
        default="",
        json_schema_extra={"maxLength": MAX_LENGTH},
    )
    tcp: Whole = key("Port of the node's first address", default=0, ge=0, le=65535, shown=" ")
    agent: Flag = key("The guest agent answers", default=False)
    command: Argv = key("Run by the guest agent until its exit status is 0", default_factory=list)
    timeout: Duration = key(
        "From the start of the node; then its start has failed", default=180.0, shown="`3m`"
    )


class CloudInitForm(Form):
    """What cloud-init in the node is told. Keys and network config are added when left out."""

    user_data: Annotated[
        str | dict[str, Any],
        BeforeValidator(to_cloud_config),
        WithJsonSchema({"type": ["string", "object", "null"], "maxLength": MAX_CLOUD_CONFIG}),
    ] = key(
        "Cloud-config: a text of YAML (`user_data: |`), or a mapping",
        default="",
        long=True,
        more="32 KiB at most, no scripts and no anchors",
    )
    meta_data: OrEmpty[dict[str, Any]] = key(
        "Further meta-data; instance-id and name are labd's",
        default_factory=dict,
        long=True,
        more="unless they are here",
    )
    network_config: dict[str, Any] | None = key(
        "Network config of version 1 or 2; left out: made from the NICs",
        default=None,
        long=True,
        shown="from the NICs",
        more="as a whole",
    )
