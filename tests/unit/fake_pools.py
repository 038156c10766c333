"""The pools of a `FakeEngine`: kept by name, and full at once."""

from __future__ import annotations

from collections.abc import Sequence

from labd.features.warm.views import WarmPoolView
from labd.model.errors import NotFound
from labd.model.pools import MemberState, WarmMember, WarmPoolRecord


class FakePools:
    """Implements `facade_pools.WarmPoolsApi`. Of the checkpoint `short`, none can be made."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    async def warm(self, checkpoint: str, size: int) -> WarmPoolView:
        if checkpoint == "nope":
            raise NotFound("there is no checkpoint nope")
        self.kept[checkpoint] = size
        return await self.get(checkpoint)

    async def all(self) -> Sequence[WarmPoolView]:
        return [await self.get(name) for name in sorted(self.kept)]

    async def get(self, checkpoint: str) -> WarmPoolView:
        if checkpoint not in self.kept:
            raise NotFound(f"there is no pool of checkpoint {checkpoint}")
        short = checkpoint == "short"
        size = self.kept[checkpoint]
        member = WarmMember(
            key="abcdef",
            checkpoint="k",
            state=MemberState.READY,
            nodes=(),
            created="2026-01-31T12:00:00.123456Z",
        )
        return WarmPoolView(
            record=WarmPoolRecord(checkpoint="k", size=size),
            checkpoint=checkpoint,
            members=() if short else (member,) * size,
            memory=(1 << 20) * size,
            reason="the disk is full" if short else "",
        )

    async def cool(self, checkpoint: str) -> None:
        await self.get(checkpoint)
        del self.kept[checkpoint]
