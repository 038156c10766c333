"""Namespaces, bridges and taps: pure plans, and the one room that touches pyroute2."""

from labd.network.adapter import LabNetworks
from labd.network.captures import LabCaptures
from labd.network.counters import LabCounters
from labd.network.dialer import NamespaceDialer
from labd.network.published import HostDoors
from labd.network.servers import LabServers
from labd.network.traces import NetworkTraces
from labd.network.uplinks import LabUplinks, UplinkSettings
from labd.network.wires import LabWires

__all__ = [
    "HostDoors",
    "LabCaptures",
    "LabCounters",
    "LabNetworks",
    "LabServers",
    "LabUplinks",
    "LabWires",
    "NamespaceDialer",
    "NetworkTraces",
    "UplinkSettings",
]
