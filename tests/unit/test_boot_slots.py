"""Slots for nodes that boot are bounded, shared between labs and given back in time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from labd.core.boot_slots import BootSlots


class Boots:
    """Tasks that hold slots until they are told to end, and the order in which they got them."""

    def __init__(self, slots: BootSlots) -> None:
        self.slots = slots
        self.got: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, kind: str | None = None) -> None:
        """Ask for a slot as `LAB/NODE`."""
        self.ends[name] = asyncio.Event()

        async def boot() -> None:
            async with self.slots.take(name.partition("/")[0], kind) as boot:
                self.got.append(name)
                await self.ends[name].wait()
                boot.ready = True

        self.tasks[name] = asyncio.create_task(boot())
        await self.settle()

    async def end(self, name: str) -> None:
        """Give back a slot."""
        self.ends[name].set()
        await self.settle()

    async def settle(self) -> None:
        """Let every task go as far as it can."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def over(self) -> None:
        """End all, and find every slot given back."""
        for end in self.ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert self.slots.taken == 0


async def test_a_free_slot_goes_to_the_lab_that_has_the_fewest() -> None:
    boots = Boots(BootSlots(3))
    for name in ("big/a", "big/b", "big/c", "big/d", "big/e", "small/a", "other/a"):
        await boots.ask(name)
    assert boots.got == ["big/a", "big/b", "big/c"]
    await boots.end("big/a")
    await boots.end("big/b")
    await boots.end("big/c")
    assert boots.got[3:] == ["small/a", "other/a", "big/d"]
    await boots.over()


async def test_a_node_that_never_gets_ready_holds_nobody_up() -> None:
    boots = Boots(BootSlots(1, hold=0.05))
    await boots.ask("hangs/a")
    await boots.ask("next/a")
    assert boots.got == ["hangs/a"]
    async with asyncio.timeout(5):
        while len(boots.got) < 2:
            await asyncio.sleep(0.01)
    assert boots.slots.taken == 1
    await boots.over()


async def test_of_a_kind_that_gets_ready_each_has_twice_the_time_of_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("labd.core.boot_slots._QUICK", 0.05)
    boots = Boots(BootSlots(1, hold=0.01))
    await boots.ask("lab/a", "slow")
    await asyncio.sleep(0.2)
    await boots.end("lab/a")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await boots.ask("lab/b", "slow")
    await boots.ask("lab/c", "slow")
    async with asyncio.timeout(30):
        while "lab/c" not in boots.got:
            await asyncio.sleep(0.01)
    assert loop.time() - began >= 0.4
    await boots.over()


@pytest.mark.parametrize("granted", [False, True], ids=["waiting", "just-granted"])
async def test_who_is_cancelled_takes_no_slot_along(granted: bool) -> None:
    slots = BootSlots(1)
    boots = Boots(slots)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(slots.take("first"))
        await boots.ask("gone/a")
        await boots.ask("next/a")
        if granted:
            await stack.aclose()  # the slot is handed over; the task has not run yet
        boots.tasks["gone/a"].cancel()
    await boots.settle()
    assert boots.got == ["next/a"]
    await boots.over()


async def test_what_boots_quickly_takes_a_sixteenth() -> None:
    boots = Boots(BootSlots(2))
    await boots.ask("lab/a", "quick")
    await boots.ask("lab/b", "slow")
    for number in range(17):
        await boots.ask(f"lab/{number}", "quick")
    assert boots.got == ["lab/a", "lab/b"], "nobody knows yet"
    await boots.end("lab/a")
    assert boots.got[2:] == [f"lab/{number}" for number in range(16)]
    assert boots.slots.taken == 2
    await boots.ask("other/a", "slow")
    await boots.end("lab/0")
    assert boots.got[18:] == [], "a whole one is not free, and who waits is not overtaken"
    for number in range(1, 16):
        await boots.end(f"lab/{number}")
    assert boots.got[18:] == ["other/a"]
    await boots.end("lab/b")
    assert boots.got[19:] == ["lab/16"]
    await boots.over()


async def made_quick(slots: BootSlots, *kinds: str) -> None:
    for kind in kinds:
        async with slots.take("lab", kind) as boot:
            boot.ready = True


async def test_a_boot_that_took_long_or_failed_is_not_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boots = Boots(BootSlots(1))
    with pytest.raises(RuntimeError):
        async with boots.slots.take("lab", "failed"):
            raise RuntimeError
    async with boots.slots.take("lab", "gone"):
        pass
    monkeypatch.setattr("labd.core.boot_slots._QUICK", 0.05)
    async with boots.slots.take("lab", "slow") as boot:
        await asyncio.sleep(0.1)
        boot.ready = True
    for kind in ("failed", "gone", "slow"):
        await boots.ask(f"{kind}/a", kind)
        await boots.ask(f"{kind}/b", kind)
        assert boots.got == [f"{kind}/a"]
        await boots.over()
        boots = Boots(boots.slots)


@pytest.mark.parametrize("ready", [True, False])
async def test_a_kind_is_quick_until_one_takes_long(
    monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    boots = Boots(BootSlots(1))
    await made_quick(boots.slots, "kind")
    monkeypatch.setattr("labd.core.boot_slots._QUICK", 0.05)
    async with boots.slots.take("lab", "kind"):
        await asyncio.sleep(0.15)  # many boot at one time
    async with asyncio.timeout(5):
        async with boots.slots.take("lab", "kind"), boots.slots.take("lab", "kind"):
            pass  # it is quick still: both have room
    async with boots.slots.take("lab", "kind") as boot:
        await asyncio.sleep(0.9)
        boot.ready = ready
    await boots.ask("lab/a", "kind")
    await boots.ask("lab/b", "kind")
    assert boots.got == ["lab/a"]
    await boots.over()


async def test_who_comes_takes_what_is_free_when_it_is_next() -> None:
    boots = Boots(BootSlots(2))
    await made_quick(boots.slots, "quick")
    await boots.ask("big/a", "slow")
    await boots.ask("small/a", "quick")
    await boots.ask("big/b", "slow")
    assert boots.got == ["big/a", "small/a"], "a whole slot is not free"
    await boots.ask("other/a", "quick")
    assert boots.got[2:] == ["other/a"], "its lab has the fewest, and it fits"
    await boots.over()


async def test_who_leaves_lets_in_those_behind_it() -> None:
    boots = Boots(BootSlots(1))
    await made_quick(boots.slots, "quick")
    await boots.ask("lab/a", "quick")
    await boots.ask("big/a", "slow")
    await boots.ask("lab/b", "quick")
    assert boots.got == ["lab/a"]
    boots.tasks["big/a"].cancel()
    await boots.settle()
    assert boots.got == ["lab/a", "lab/b"]
    await boots.over()
