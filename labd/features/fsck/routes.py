"""`lab fsck`: where the host and the inventory disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from labd.api.models import Wire
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.fsck.service import Fsck
from labd.model import differences
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


router = APIRouter(tags=["host"])

FsckDep = Annotated[Fsck, Depends(service(Fsck))]


@router.get("/fsck")
@requires(Scope.HOST_READ)
async def get_differences(fsck: FsckDep) -> Differences:
    """Tell where the kernel, the folders and the inventory do not agree."""
    return _show(await fsck.check(repair=False))


@router.post("/fsck")
@requires(Scope.HOST_WRITE)
async def repair(fsck: FsckDep) -> Differences:
    """Repair what can be repaired, and tell it with what is left."""
    return _show(await fsck.check(repair=True))


def _show(found: Sequence[differences.Difference]) -> Differences:
    return Differences(
        differences=[Difference.model_validate(item, from_attributes=True) for item in found]
    )
