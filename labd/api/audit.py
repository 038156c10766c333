"""The record of requests: who asked for what, and what became of it.

A request that changes a row is told in the transaction that does (`labd.model.people.Asked`). All
others that are no mere reading are told here, before they are answered. Who is refused again and
again, or types a thousand keys, must not push everything else out of the events: such requests are
told so often a minute, and then counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from labd.api.callers import Access
from labd.api.limits import Meter
from labd.model.errors import LabdError
from labd.model.people import Asked, Outcome, Role

log = logging.getLogger(__name__)

_REFUSED: Final = frozenset({401, 403, 421, 429})
_PATH = 120  # characters of a path that no route has
# Requests a second and at once that are told of one caller.
_TOLD: Final = {Outcome.ACCEPTED: (1.0, 100), Outcome.FAILED: (0.2, 30), Outcome.REFUSED: (0.1, 20)}


class Audit:
    """Writes the record."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._meter = Meter()
        self._left_out: Counter[str] = Counter()

    async def record(self, asked: Asked, words: str, status: int) -> None:
        """Tell a request that is about to be answered, unless its change has told it.

        Args:
            asked: Who asks for what.
            words: The request itself, for one that is no action that labd knows.
            status: Of the answer, as HTTP has it.
        """
        outcome = _outcome(asked, status)
        if asked.reads and status != 401:
            return
        if asked.told and outcome is Outcome.ACCEPTED:
            return
        if not asked.action:
            asked.action = words[:_PATH]
        who = f"{asked.actor} {outcome}"
        if self._meter.take(who, *_TOLD[outcome]):
            self._left_out[who] += 1
            return
        more: dict[str, object] = {"status": status}
        if left_out := self._left_out.pop(who, 0):
            more["left_out"] = left_out
        try:
            await self._access.report(asked, outcome, more)
        except LabdError as error:
            log.warning("%s: %s is not on record: %s", asked.actor, asked.action, error)


def _outcome(asked: Asked, status: int) -> Outcome:
    """Return what became of a request; what a caller may not see is refused by not finding it."""
    if status < 400:
        return Outcome.ACCEPTED
    hidden = status == 404 and asked.role in {Role.INSTRUCTOR, Role.STUDENT}
    return Outcome.REFUSED if status in _REFUSED or hidden else Outcome.FAILED
