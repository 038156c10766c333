"""What goes over the wire of differences."""

from __future__ import annotations

from pydantic import Field

from labd.api.models import Wire
from labd.model.differences import Mismatch


class Difference(Wire):
    """One thing on which the kernel, the folders and the inventory do not agree."""

    kind: Mismatch
    name: str
    text: str
    remedy: str = Field(description="what a repair does about it; empty: a person must")
    repaired: bool


class Differences(Wire):
    """What `lab fsck` found."""

    differences: list[Difference]
