"""Frozen labs on disk and in memory: QEMU's streams taken apart, layers, sealed memory."""

from __future__ import annotations

from labd.checkpoints.store import CheckpointStore

__all__ = ["CheckpointStore"]
