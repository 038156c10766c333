"""The leases of a `FakeEngine`: the real rules, by a clock that stands still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from labd.features.facade import LabView
from labd.features.leases import plan as leases
from labd.features.leases.views import LeaseView
from labd.model.errors import NotFound
from labd.model.lab_leases import LabLease, LeaseAsk, LeaseStage, Moment

NOW = Moment(wall=1_769_860_800.0, boottime=1000.0, boot_id="b")  # 2026-01-31T12:00:00Z


class FakeLeases:
    """Implements `facade_leases.LeasesApi`."""

    def __init__(self, lab: Callable[[str], Awaitable[LabView]]) -> None:
        self._lab = lab
        self.kept: dict[str, LabLease] = {}

    def give(self, lab: str, ask: LeaseAsk | None) -> None:
        if ask is not None:
            self.kept[lab] = leases.begun(lab, ask, NOW)

    def view(self, lease: LabLease) -> LeaseView:
        running = lease.stage is LeaseStage.RUNNING
        return LeaseView(
            lease=lease,
            ends=leases.rfc3339(leases.ends(lease)),
            destroys=leases.rfc3339(leases.destroys(lease)),
            left=leases.remaining(lease, NOW) if running else 0.0,
        )

    def find(self, lab: str) -> LeaseView | None:
        return self.view(self.kept[lab]) if lab in self.kept else None

    async def all(self) -> Sequence[LeaseView]:
        return [self.view(self.kept[lab]) for lab in sorted(self.kept)]

    async def get(self, lab: str) -> LeaseView:
        await self._lab(lab)
        if lab not in self.kept:
            raise NotFound(f"lab {lab} has no lease; `lab lease set {lab} 3h` gives it one")
        return self.view(self.kept[lab])

    async def set(self, lab: str, ask: LeaseAsk) -> LeaseView:
        await self._lab(lab)
        self.give(lab, ask)
        return await self.get(lab)

    async def extend(self, lab: str, seconds: float) -> LeaseView:
        found = await self.get(lab)
        self.kept[lab] = leases.extended(found.lease, seconds, NOW)
        return await self.get(lab)

    async def cancel(self, lab: str) -> None:
        await self.get(lab)
        del self.kept[lab]
