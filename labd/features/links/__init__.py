"""Links: carriers and impairments."""

from labd.features.links.schemas import TARGET
from labd.features.links.service import LinkService

__all__ = [
    "TARGET",
    "LinkService",
]
