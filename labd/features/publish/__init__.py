"""Published ports of nodes."""

from labd.features.publish.service import Publications

__all__ = [
    "Publications",
]
