"""A guest that resets itself over and over: told, and never in a flood."""

from __future__ import annotations

import asyncio

from labd.drivers.node.qemu.resets import SINGLY, ResetMeter
from labd.model.machine import GuestEvent, GuestEventKind


def reset(number: int) -> GuestEvent:
    return GuestEvent(key="k1", kind=GuestEventKind.RESET, time=float(number), data={"guest": True})


async def test_a_storm_is_told_together_and_each_reset_counts() -> None:
    told: list[GuestEvent] = []
    meter = ResetMeter(told.append)
    for number in range(1000):
        meter.note(reset(number))
    assert [event.time for event in told] == [float(n) for n in range(SINGLY)]
    async with asyncio.timeout(10):
        while len(told) == SINGLY:
            await asyncio.sleep(0.05)
    assert told[SINGLY:] == [
        GuestEvent(
            key="k1",
            kind=GuestEventKind.RESET,
            time=999.0,
            data={"guest": True, "count": 1000 - SINGLY},
        )
    ]


async def test_what_is_held_is_told_before_what_comes_after() -> None:
    told: list[GuestEvent] = []
    meter = ResetMeter(told.append)
    for number in range(SINGLY + 1):
        meter.note(reset(number))
    meter.flush()
    assert told[-1].data == {"guest": True, "count": 1}
    meter.flush()
    assert len(told) == SINGLY + 1
