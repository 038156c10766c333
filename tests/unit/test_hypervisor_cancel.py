"""A migration that QEMU forgot to wake when it was cancelled, which no test can bring about."""

from __future__ import annotations

from typing import cast

import pytest

from labd.drivers.node.qemu import saving
from labd.drivers.node.qemu.vm import Vm
from labd.model.errors import WorldError
from labd.model.machine import RunState


class Forgetful:
    """Answers as QEMU 7.2.22 did in that state, until it is woken (never, when it is deaf)."""

    name = "web/a"

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.migration, self.status = "active", "finish-migrate"
        self.resumed = False

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        match command:
            case "migrate_cancel":
                self.migration = "cancelling"
            case "migrate-continue":
                assert arguments == {"state": self.migration}
                if not self.deaf:
                    self.migration, self.status = "cancelled", "paused"
            case "query-migrate":
                return {"status": self.migration}
            case "query-status":
                return {"status": self.status}
        return {}

    async def query(self) -> RunState:
        return RunState.PAUSED

    async def resume(self) -> None:
        self.resumed = True


async def test_one_that_was_forgotten_is_woken() -> None:
    qemu = Forgetful()
    await saving.abandon(cast("Vm", qemu), run=True)
    assert (qemu.migration, qemu.resumed) == ("cancelled", True)


async def test_one_that_never_ends_is_an_error_of_the_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "_SETTLE", 0.2)
    with pytest.raises(WorldError, match="QEMU of web/a does not end its migration; restart it"):
        await saving.abandon(cast("Vm", Forgetful(deaf=True)), run=True)
