"""Namespaces, bridges and taps: pure plans, and the one room that touches pyroute2."""

from labd.drivers.network.linux.adapter import LabNetworks
from labd.drivers.network.linux.captures import LabCaptures
from labd.drivers.network.linux.counters import LabCounters
from labd.drivers.network.linux.dialer import NamespaceDialer
from labd.drivers.network.linux.impairments import LabLinks
from labd.drivers.network.linux.published_ports import HostPublishedPorts
from labd.drivers.network.linux.servers import LabServers
from labd.drivers.network.linux.traces import NetworkTraces
from labd.drivers.network.linux.uplinks import LabUplinks, UplinkSettings

__all__ = [
    "HostPublishedPorts",
    "LabCaptures",
    "LabCounters",
    "LabLinks",
    "LabNetworks",
    "LabServers",
    "LabUplinks",
    "NamespaceDialer",
    "NetworkTraces",
    "UplinkSettings",
]
