"""The activity in the labs of a `FakeEngine`: each was used a minute ago."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from labd.features.activity.views import ActivityView
from labd.features.facade import LabView
from labd.model.activity import Source
from labd.model.events import EventDraft, EventType

Tell = Callable[[EventDraft], Awaitable[None]]


class FakeActivity:
    """Implements `ActivityApi`; `used` is lab -> when, by `time.monotonic`."""

    def __init__(
        self,
        lab: Callable[[str], Awaitable[LabView]],
        labs: Callable[[], Iterable[str]],
        tell: Tell,
    ) -> None:
        self._lab, self._labs, self._tell = lab, labs, tell
        self.used: dict[str, float] = {}

    async def all(self) -> Sequence[ActivityView]:
        return [self._view(name) for name in sorted(self._labs())]

    async def get(self, lab: str) -> ActivityView:
        await self._lab(lab)
        return self._view(lab)

    def _view(self, lab: str) -> ActivityView:
        idle = time.monotonic() - self.used[lab] if lab in self.used else 60.0
        return ActivityView(
            lab=lab,
            running=True,
            since="2026-01-31T11:00:00Z",
            last="2026-01-31T11:59:00Z",
            idle=idle,
            source=Source.EXEC,
            sources={Source.START: 3600.0, Source.EXEC: idle},
        )

    async def warn(self, lab: str, *, by: str, reason: str, text: str, left: float | None) -> None:
        await self._lab(lab)
        data = {"by": by, "reason": reason, "text": text, "left": left}
        await self._tell(EventDraft(type=EventType.LAB_WARNING, lab=lab, data=data))
