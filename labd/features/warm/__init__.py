"""Warm pools: forks that stand ready."""

from labd.features.warm.members import pseudo_lab

__all__ = [
    "pseudo_lab",
]
