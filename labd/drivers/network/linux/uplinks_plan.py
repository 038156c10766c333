"""From a lab's spec to its uplinks. Pure; `rules` writes what nftables shall hold."""

from __future__ import annotations

from labd.drivers.network.linux.names import (
    bridge_name,
    link_name,
    mapped_names,
    namespace_name,
    table_name,
)
from labd.model.network import AllowPlan, MappedPlan, UplinkPlan
from labd.model.specs import Gateway, LabSpec, NetworkSpec

_BRIDGE = "bridge:"


def plan_uplinks(spec: LabSpec, lab_key: str, root_id: str) -> UplinkPlan | None:
    """Return how the networks of a lab leave it, None when there is nothing to build."""
    namespace = namespace_name(root_id, lab_key)
    routed = [network for network in spec.networks if network.gateway is Gateway.LABD]
    plan = UplinkPlan(
        table=table_name(namespace),
        link=link_name(namespace),
        routed=tuple(bridge_name(network.name) for network in routed),
        nat=tuple(bridge_name(network.name) for network in routed if network.uplink == "nat"),
        allow=tuple(allow for network in routed for allow in _allow(network)),
        mapped=tuple(
            _mapped(namespace, network)
            for network in spec.networks
            if network.uplink.startswith(_BRIDGE)
        ),
    )
    return None if plan.empty else plan


def _allow(network: NetworkSpec) -> list[AllowPlan]:
    return [
        AllowPlan(
            bridge=bridge_name(network.name),
            gateway=network.gateway_address,
            to=item.to,
            protocol=item.protocol,
            ports=item.ports,
        )
        for item in network.allow
    ]


def _mapped(namespace: str, network: NetworkSpec) -> MappedPlan:
    outer, inner, tagged = mapped_names(namespace, network.name)
    return MappedPlan(
        network=network.name,
        bridge=bridge_name(network.name),
        host_bridge=network.uplink.removeprefix(_BRIDGE),
        outer=outer,
        inner=inner,
        vlan=network.vlan,
        tagged=tagged if network.vlan else "",
        mtu=network.mtu,
    )
