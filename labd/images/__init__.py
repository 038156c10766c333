"""The image store: files by digest, header checks, overlays, downloads and recipes."""

from __future__ import annotations

from labd.images.store import ImageStore

__all__ = ["ImageStore"]
