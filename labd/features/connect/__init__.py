"""Connections into labs."""

from labd.features.connect.service import ConnectService

__all__ = [
    "ConnectService",
]
