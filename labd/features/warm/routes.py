"""Warm pools: forks that stand ready before somebody asks for them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from labd.api import models
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.checkpoints import CheckpointService
from labd.features.warm.service import WarmPools
from labd.features.warm.views import WarmPoolView
from labd.model.names import NAME_PATTERN
from labd.model.people import Thing
from labd.model.pools import MemberState

router = APIRouter(prefix="/pools", tags=["pools"])

CheckpointsDep = Annotated[CheckpointService, Depends(service(CheckpointService))]
PoolsDep = Annotated[WarmPools, Depends(service(WarmPools))]

CheckpointName = Annotated[
    str, Path(pattern=NAME_PATTERN, description="Name of the pool's checkpoint")
]


class Warm(models.Body):
    """Keep forks ready."""

    size: int = Field(ge=1, le=500, description="How many; also of a pool that is there")


class Member(models.Wire):
    """A fork that stands ready, or is being made."""

    key: str = Field(description="Of the lab that it becomes")
    state: MemberState
    created: str
    pids: dict[str, int] = Field(description="Node -> process id of its QEMU, once it is ready")


class Pool(models.Wire):
    """A warm pool."""

    checkpoint: str
    size: int = Field(description="How many forks shall stand ready")
    ready: int = Field(description="How many do")
    memory: int = Field(description="Bytes that they share with nobody")
    reason: str = Field(description="Why it is not full, or empty")
    created: str
    members: list[Member] = Field(description="The oldest first; it is taken first")


class Pools(models.Wire):
    """All pools by name of their checkpoint."""

    pools: list[Pool]


def _show(view: WarmPoolView) -> Pool:
    members = [
        Member(
            key=member.key,
            state=member.state,
            created=member.created,
            pids={node.name: node.process.pid for node in member.nodes if node.process},
        )
        for member in view.members
    ]
    return Pool(
        checkpoint=view.checkpoint,
        size=view.record.size,
        ready=sum(member.state is MemberState.READY for member in members),
        memory=view.memory,
        reason=view.reason,
        created=view.record.created,
        members=members,
    )


@router.get("")
@requires(Scope.LABS_READ)
async def list_pools(checkpoints: CheckpointsDep, pools: PoolsDep, policy: PolicyDep) -> Pools:
    """List the pools of the checkpoints that the caller may see."""
    saved = await checkpoints.all()
    seen = {view.record.name for view in saved if policy.own(view.record.owner)}
    return Pools(pools=[_show(v) for v in await pools.all() if v.checkpoint in seen])


@router.get("/{checkpoint}")
@requires(Scope.LABS_READ, about=Thing.CHECKPOINT)
async def get_pool(checkpoint: CheckpointName, pools: PoolsDep) -> Pool:
    """Return the pool of a checkpoint."""
    return _show(await pools.get(checkpoint))


@router.put("/{checkpoint}", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT)
async def warm_pool(checkpoint: CheckpointName, body: Warm, pools: PoolsDep) -> Pool:
    """Keep so many forks of a checkpoint ready; they are made in the background."""
    return _show(await pools.warm(checkpoint, body.size))


@router.delete("/{checkpoint}", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.LABS_CONTROL, about=Thing.CHECKPOINT)
async def cool_pool(checkpoint: CheckpointName, pools: PoolsDep) -> None:
    """End a pool; its forks are gone with the answer."""
    await pools.cool(checkpoint)
