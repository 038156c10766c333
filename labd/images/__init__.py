"""The image store: files by digest, header checks, conversion, overlays, downloads and recipes."""

from __future__ import annotations

from labd.images.convert import Converter
from labd.images.store import ImageStore

__all__ = ["Converter", "ImageStore"]
