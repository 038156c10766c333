"""Namespaces, bridges and taps: pure plans, and the one room that touches pyroute2."""

from labd.network.adapter import LabNetworks

__all__ = ["LabNetworks"]
