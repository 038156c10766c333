"""`lab fsck`: where the host and the inventory disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends

from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.fsck import schemas
from labd.features.fsck.service import Fsck
from labd.model.differences import Difference

router = APIRouter(tags=["host"])

FsckDep = Annotated[Fsck, Depends(service(Fsck))]


@router.get("/fsck")
@requires(Scope.HOST_READ)
async def get_differences(fsck: FsckDep) -> schemas.Differences:
    """Tell where the kernel, the folders and the inventory do not agree."""
    return _show(await fsck.check(repair=False))


@router.post("/fsck")
@requires(Scope.HOST_WRITE)
async def repair(fsck: FsckDep) -> schemas.Differences:
    """Repair what can be repaired, and tell it with what is left."""
    return _show(await fsck.check(repair=True))


def _show(found: Sequence[Difference]) -> schemas.Differences:
    return schemas.Differences(
        differences=[
            schemas.Difference.model_validate(item, from_attributes=True) for item in found
        ]
    )
