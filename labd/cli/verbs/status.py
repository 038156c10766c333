"""`lab status`."""

from __future__ import annotations

import click

from labd.cli.addresses import show_addresses
from labd.cli.session import Session, split_ref, verb
from labd.cli.text import age, paused, plain, size, span, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from labd.client.types import Activity, Lab, Node


@verb("status")
@click.argument("ref", required=False, metavar="[LAB[/NODE]]")
@click.option("--addresses", is_flag=True, help="Show the addresses that nodes have, and who says.")
def status(session: Session, ref: str | None, addresses: bool) -> None:
    """Show a lab with its nodes and networks, one node, or labd itself."""
    if addresses:
        if ref is None:
            raise click.UsageError("--addresses is of a lab: lab status LAB --addresses")
        show_addresses(session, [split_ref(ref)[0]], split_ref(ref)[1])
        return
    if ref is None:
        _daemon(session)
        return
    lab, name = split_ref(ref)
    if name:
        node = session.client.node(lab, name)
        if session.json:
            session.emit(node)
        else:
            _show_node(session, node)
        return
    found, activity = session.client.lab(lab), session.client.activity.get(lab)
    if session.json:
        session.emit({**found, "activity": activity})
    else:
        _show_lab(session, found, activity)


def _daemon(session: Session) -> None:
    info = session.client.info()
    if session.json:
        session.emit(info)
        return
    for key, value in info.items():
        text = _broker(value) if key == "broker" and isinstance(value, dict) else plain(value)
        if text:
            session.say(f"{key + ':':<16} {text}")


def _broker(broker: dict[str, Any]) -> str:
    """Return in words where events go, and whether they arrive."""
    where = broker.get("url") or f"{broker.get('host')}:{broker.get('port')}"
    text = f"{broker.get('mode')}, {where}"
    if broker.get("username"):
        text += f", user {broker['username']} with the password in {broker['password_file']}"
    if broker.get("connected") is False:
        text += f"; not connected: {broker.get('problem') or 'not yet tried'}"
    return plain(text)


def _show_lab(session: Session, lab: Lab, activity: Activity) -> None:
    reason = f": {plain(lab['reason'])}" if lab["reason"] else ""
    count = paused(lab["nodes"])
    still = f", with {count} of {len(lab['nodes'])} nodes paused" if count else ""
    session.say(f"lab {lab['name']} is {lab['state']}{still}{reason}")
    lease = lab["lease"]
    if lease is not None:
        from labd.cli.leasing import lease_text

        session.say(lease_text(lease))
    if activity["idle"] is not None:
        session.say(f"idle for {span(activity['idle'])}; last active by {activity['source']}")
    held = lab["operation"]
    if held is not None:
        session.say(f"operation {held['id']} ({held['kind']}) is under way")
    rows = [
        (
            node["name"],
            node["state"],
            node["pid"] or "-",
            node["accel"] or "-",
            size(node["memory"]),
            age(node["since"]),
            ", ".join(node["addresses"]) or "-",
            node["reason"],
        )
        for node in lab["nodes"]
    ]
    session.say("")
    session.say(table(("NODE", "STATE", "PID", "ACCEL", "MEMORY", "SINCE", "ADDRESSES", ""), rows))
    if lab["published"]:
        from labd.model.publish import endpoint

        ports = [
            (item["node"], endpoint(item["address"], item["host_port"]), item["port"])
            for item in lab["published"]
        ]
        session.say("")
        session.say(table(("NODE", "PUBLISHED AT", "PORT"), ports))
    if lab["networks"]:
        nets = [
            (net["name"], net["state"], net["subnet"] or "-", net["uplink"], len(net["members"]))
            for net in lab["networks"]
        ]
        session.say("")
        session.say(table(("NETWORK", "STATE", "SUBNET", "UPLINK", "NICS"), nets))


def _show_node(session: Session, node: Node) -> None:
    reason = f": {plain(node['reason'])}" if node["reason"] else ""
    session.say(f"node {node['lab']}/{node['name']} is {node['state']}{reason}")
    for key in ("since", "pid", "uuid", "uid", "accel", "vcpus", "starts"):
        value = node[key]
        session.say(f"{key + ':':<10} {value if value not in (None, '') else '-'}")
    session.say(f"{'memory:':<10} {size(node['memory'])}")
    session.say(f"{'addresses:':<10} {', '.join(node['addresses']) or '-'}")
