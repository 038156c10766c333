"""What a guest with cloud-init is told at its first boot: the files of a NoCloud seed. Pure.

The template's user-data is a mapping (`#cloud-config`); labd adds to it

    ssh_authorized_keys    the lab's key and the administrators', for root, the default user and
                           each user that user-data makes
    write_files            the other nodes in /etc/hosts
    bootcmd                forwarding, at each start
    runcmd                 the node's commands, after those of the template

and writes it as JSON, which is YAML. The instance id depends on all that is told, so that
cloud-init does its work anew when the template was edited, as Incus does it. Files and keys are
those of cloud-init's documentation: NoCloud, network config version 2.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from labd.model.errors import InputError
from labd.model.guestconfig import DEFAULT_MTU, Resolver, interface_name
from labd.model.specs import CloudInitSpec, NicSpec, NodeSpec

SEED_LABEL: Final = "cidata"
_FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


def seed(
    node: NodeSpec,
    *,
    uuid: str,
    hosts: Mapping[str, str] | None = None,
    mtus: Mapping[str, int] | None = None,
    resolvers: Mapping[str, Resolver] | None = None,
    authorized_keys: Sequence[str] = (),
) -> dict[str, bytes]:
    """Return file name -> content of a node's seed.

    Args:
        node: What it shall be.
        uuid: Of the machine; makes its instance id another one than that of its copies.
        hosts: Name -> address of the nodes that it shall know by name.
        mtus: Network name -> MTU in bytes; networks that are not told have 1500.
        resolvers: Network name -> who answers names in it.
        authorized_keys: OpenSSH public keys that may log in.

    Raises:
        InputError: A key of user-data that labd adds to has another form than cloud-init knows.
    """
    told = node.cloud_init or CloudInitSpec()
    config = _mapping(told.user_data)
    _add_keys(config, authorized_keys, f"node {node.name}")
    _add_work(config, node, hosts or {})
    user_data = f"#cloud-config\n{_text(config)}".encode()
    network = told.network_config or json.dumps(network_config(node, mtus or {}, resolvers or {}))
    network_data = _text(json.loads(network)).encode()
    digest = hashlib.sha256(user_data + b"\0" + network_data + told.meta_data.encode())
    meta = {
        "instance-id": f"{uuid}-{digest.hexdigest()[:8]}",
        "local-hostname": node.name,
        **_mapping(told.meta_data),
    }
    return {
        "meta-data": _text(meta).encode(),
        "network-config": network_data,
        "user-data": user_data,
    }


def logins(node: NodeSpec, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return who of a node is let in by which keys: root, and the users of its user-data."""
    config = _mapping(node.cloud_init.user_data if node.cloud_init else "")
    found = {"root": tuple(keys)}
    for user in _users(config):
        own = user.get("ssh_authorized_keys") or []
        found[str(user["name"])] = (*(str(key) for key in own if isinstance(own, list)), *keys)
    return found


def network_config(
    node: NodeSpec, mtus: Mapping[str, int], resolvers: Mapping[str, Resolver]
) -> dict[str, Any]:
    """Return network config version 2 for the NICs of a node; each is found by its MAC address."""
    if not node.nics:
        return {"config": "disabled"}
    cards = {interface_name(nic.name): _card(nic, mtus, resolvers) for nic in node.nics}
    for route in node.routes:
        card = cards[interface_name(_nearest(node.nics, route.via).name)]
        to = _default(route.via) if route.to == "default" else route.to
        card.setdefault("routes", []).append({"to": to, "via": route.via})
    return {"version": 2, "ethernets": cards}


def _card(
    nic: NicSpec, mtus: Mapping[str, int], resolvers: Mapping[str, Resolver]
) -> dict[str, Any]:
    name = interface_name(nic.name)
    card: dict[str, Any] = {
        "match": {"macaddress": nic.mac},
        "set-name": name,
        "dhcp4": nic.dhcp,
        "dhcp6": False,
    }
    if nic.addresses:
        card["addresses"] = list(nic.addresses)
    if nic.gateway:
        card["routes"] = [{"to": _default(nic.gateway), "via": nic.gateway}]
    mtu = mtus.get(nic.network, DEFAULT_MTU)
    if mtu != DEFAULT_MTU:
        card["mtu"] = mtu
    resolver = resolvers.get(nic.network)
    if resolver is not None and nic.addresses:
        card["nameservers"] = {"addresses": [resolver.address], "search": [resolver.domain]}
    return card


def _nearest(nics: Sequence[NicSpec], via: str) -> NicSpec:
    """Return the NIC in whose subnet a next hop is; the first one when it is in none."""
    hop = ipaddress.ip_address(via)
    for nic in nics:
        if any(hop in ipaddress.ip_interface(address).network for address in nic.addresses):
            return nic
    return nics[0]


def _default(via: str) -> str:
    # Not `default`, which cloud-init of Debian 12 does not know yet.
    return "::/0" if ":" in via else "0.0.0.0/0"


def _add_keys(config: dict[str, Any], keys: Sequence[str], where: str) -> None:
    keys = [key.strip() for key in keys]
    if not keys:
        return
    _extend(config, "ssh_authorized_keys", keys, where)
    for user in _users(config):
        _extend(user, "ssh_authorized_keys", keys, f"{where}, user {user['name']}")


def _users(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the users that user-data makes.

    Others are `default`, who gets the keys of the top, or mere names, who have no keys at all.
    """
    users = config.get("users")
    return [
        user
        for user in (users if isinstance(users, list) else [])
        if isinstance(user, dict) and user.get("name")
    ]


def _add_work(config: dict[str, Any], node: NodeSpec, hosts: Mapping[str, str]) -> None:
    where = f"node {node.name}"
    others = [f"{address} {name}\n" for name, address in hosts.items() if name != node.name]
    if others:
        entry = {"path": "/etc/hosts", "append": True, "content": "".join(others)}
        _extend(config, "write_files", [entry], where)
    if node.forwarding:
        _extend(config, "bootcmd", [["sysctl", "-q", "-w", *_FORWARDING]], where)
    if node.commands:
        _extend(config, "runcmd", [list(argv) for argv in node.commands], where)


def _extend(config: dict[str, Any], key: str, more: Sequence[Any], where: str) -> None:
    there = config.get(key)
    if there is None:
        there = []
    if not isinstance(there, list):
        raise InputError(f"{where}: {key} in its user_data must be a list; labd adds to it")
    config[key] = [*there, *more]


def _mapping(text: str) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    assert isinstance(found, dict)  # noqa: S101 - the template's reader lets nothing else in
    return found


def _text(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
