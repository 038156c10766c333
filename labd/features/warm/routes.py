"""Warm pools: forks that stand ready before somebody asks for them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from labd.api.callers import EngineDep
from labd.api.policy import PolicyDep
from labd.features import models
from labd.features.warm.views import WarmPoolView
from labd.model.names import NAME_PATTERN
from labd.model.pools import MemberState

router = APIRouter(prefix="/pools", tags=["pools"])

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
async def list_pools(engine: EngineDep, policy: PolicyDep) -> Pools:
    """List the pools of the checkpoints that the caller may see."""
    saved = await engine.checkpoints.all()
    seen = {view.record.name for view in saved if policy.own(view.record.owner)}
    return Pools(pools=[_show(v) for v in await engine.pools.all() if v.checkpoint in seen])


@router.get("/{checkpoint}")
async def get_pool(checkpoint: CheckpointName, engine: EngineDep) -> Pool:
    """Return the pool of a checkpoint."""
    return _show(await engine.pools.get(checkpoint))


@router.put("/{checkpoint}", status_code=HTTPStatus.ACCEPTED)
async def warm_pool(checkpoint: CheckpointName, body: Warm, engine: EngineDep) -> Pool:
    """Keep so many forks of a checkpoint ready; they are made in the background."""
    return _show(await engine.pools.warm(checkpoint, body.size))


@router.delete("/{checkpoint}", status_code=HTTPStatus.NO_CONTENT)
async def cool_pool(checkpoint: CheckpointName, engine: EngineDep) -> None:
    """End a pool; its forks are gone with the answer."""
    await engine.pools.cool(checkpoint)
