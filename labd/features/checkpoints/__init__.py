"""Checkpoints of labs, forks and restores."""

from labd.features.checkpoints.forking import ForkedNode, Forking
from labd.features.checkpoints.service import CheckpointService, check_settings

__all__ = [
    "CheckpointService",
    "ForkedNode",
    "Forking",
    "check_settings",
]
