"""The wires of a `FakeEngine`: one `eth0` in `lan` of each node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from labd.features.facade import LabView
from labd.features.links.views import LinkChange, LinkView
from labd.model.errors import NotFound
from labd.model.impairment import Impairment


class FakeWiresApi:
    """Implements `LinksApi`; `find` raises for labs that are not there."""

    def __init__(self, find: Callable[[str], Awaitable[LabView]]) -> None:
        self._find = find
        self.asked: list[tuple[str, LinkChange | str]] = []

    async def show(self, lab: str) -> Sequence[LinkView]:
        view = await self._find(lab)
        return [
            LinkView(
                network="lan",
                link=False,
                node=node.name,
                nic="eth0",
                to=(),
                down=False,
                sends=Impairment(rate=10_000_000, loss=1.5),
                changed=True,
            )
            for node in view.lab.spec.nodes
        ]

    async def set(self, lab: str, change: LinkChange) -> Sequence[LinkView]:
        found = await self.show(lab)
        meant = [v for v in found if change.target in (v.network, f"{v.node}/{v.nic}")]
        if not meant:
            raise NotFound(f"there is no link or network {change.target}")
        self.asked.append((lab, change))
        return meant

    async def reset(self, lab: str, target: str = "") -> Sequence[LinkView]:
        found = await self.show(lab)
        self.asked.append((lab, target))
        return [v for v in found if target in ("", v.network, f"{v.node}/{v.nic}")]
