"""Idle labs: what counts as use, on an engine with fakes and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.features.activity.attended import is_touch
from labd.features.activity.service import Seen, Tap
from labd.model.activity import BACKGROUND, Glance, Source
from labd.model.errors import NotFound
from labd.model.names import NodeRef
from labd.model.records import OperationKind
from labd.model.specs import Display
from tests.contract.test_engine_ways import lab as networked
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind
A = NodeRef("web", "a")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def home(tmp_path: Path, clock: Clock) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path, moment=clock) as it:
        yield it


async def used(home: FakeDaemon) -> tuple[float | None, Source | None]:
    view = await home.engine.activity.get("web")
    return view.idle, view.source


async def test_each_use_is_seen_and_the_last_one_counts(home: FakeDaemon, clock: Clock) -> None:
    await home.up(networked())
    home.dialer.listening.add(("10.0.0.2", 22))
    clock.go(100)
    assert await used(home) == (100, Source.OPERATION)
    (await home.engine.connect.to_node(A, 22)).close()
    assert await used(home) == (0, Source.CONNECTION)
    clock.go(7)
    async with home.engine.console.attach(A) as line:
        assert await used(home) == (0, Source.CONSOLE)
        clock.go(7)
        assert await used(home) == (7, Source.CONSOLE)  # nobody types
        await line.write(b"ls\n")
        assert await used(home) == (0, Source.CONSOLE)
    clock.go(7)
    home.host.open_agent(await home.key("a"))
    await home.engine.guests.execute(A, ["true"], stdin=b"", timeout=5)
    assert await used(home) == (0, Source.EXEC)
    clock.go(7)
    async with home.engine.captures.open("web", "lan"):
        assert await used(home) == (0, Source.CAPTURE)
    clock.go(7)
    await home.act(K.RESTART, "a", force=True)
    assert await used(home) == (0, Source.OPERATION)
    view = await home.engine.activity.get("web")
    assert view.sources[Source.EXEC] == 14
    assert (view.since, view.last) == ("2026-01-31T12:00:00Z", "2026-01-31T12:02:15Z")


async def test_what_is_going_on_is_use_until_it_ends(home: FakeDaemon, clock: Clock) -> None:
    await home.up(spec(node("a")))
    with home.engine.activity.during("web", Source.EXEC):
        clock.go(3600)
        await home.engine.activity.tick()
        assert await used(home) == (0, Source.EXEC)
    clock.go(5)
    assert await used(home) == (5, Source.EXEC)


async def test_a_refused_request_is_no_use(home: FakeDaemon, clock: Clock) -> None:
    await home.up(networked())
    clock.go(50)
    with pytest.raises(Exception, match="refused"):
        await home.engine.connect.to_node(A, 22)
    assert await used(home) == (50, Source.OPERATION)


async def test_bytes_on_a_connection_that_was_handed_out_are_use(
    home: FakeDaemon, clock: Clock
) -> None:
    await home.up(spec(node("a")))
    clock.go(600)
    home.counters.seen = Glance(quiet=4.0)
    assert await used(home) == (4, Source.CONNECTION)
    home.counters.seen = Glance()  # it has ended
    clock.go(60)
    assert await used(home) == (64, Source.CONNECTION)


async def test_chatter_is_no_use_and_traffic_is(home: FakeDaemon, clock: Clock) -> None:
    await home.up(spec(node("a")))

    async def passes(packets: int) -> None:
        clock.go(15)
        total = home.counters.seen.packets["t"] + packets
        home.counters.seen = Glance(packets={"t": total})
        await home.engine.activity.tick()

    home.counters.seen = Glance(packets={"t": 10_000})  # of before
    await home.engine.activity.tick()
    for _ in range(40):
        await passes(BACKGROUND // 4)
    assert await used(home) == (600, Source.OPERATION)
    assert (await home.engine.activity.get("web")).rate == BACKGROUND
    for _ in range(8):
        await passes(BACKGROUND // 2)
    idle, source = await used(home)
    assert source is Source.TRAFFIC
    assert idle is not None
    assert idle < 60
    home.counters.seen = Glance(packets={"t": 5})  # a new QEMU begins from nothing
    clock.go(60)
    assert (await used(home))[0] == idle + 60


async def test_a_daemon_that_starts_takes_labs_for_used(home: FakeDaemon, clock: Clock) -> None:
    await home.up(spec(node("a")))
    clock.go(3600)
    home.counters.seen = Glance(quiet=1800.0)  # of before it watched: known no better
    await home.restart()
    assert await used(home) == (0, Source.START)
    clock.go(60)
    assert await used(home) == (60, Source.START)


async def test_labs_that_are_down_or_paused_are_not_idle(home: FakeDaemon, clock: Clock) -> None:
    await home.up(spec(node("a")))
    assert [view.lab for view in await home.engine.activity.all()] == ["web"]
    clock.go(100)
    await home.act(K.PAUSE)
    assert await home.engine.activity.all() == []
    view = await home.engine.activity.get("web")
    assert (view.running, view.idle, view.last) == (False, None, "")
    await home.engine.activity.tick()
    clock.go(100)
    await home.act(K.RESUME)
    assert (await used(home))[0] == 0
    with pytest.raises(NotFound):
        await home.engine.activity.get("other")


async def test_a_warning_is_an_event(home: FakeDaemon) -> None:
    await home.up(spec(node("a")))
    seq = await home.seq()
    await home.engine.activity.warn("web", by="plugin idle", reason="idle", text="soon", left=9.5)
    (event,) = await home.inventory.events(seq, 10)
    told = {"by": "plugin idle", "reason": "idle", "text": "soon", "left": 9.5}
    assert (event.draft.type, event.draft.lab) == ("lab.warning", "web")
    assert event.draft.data == told
    with pytest.raises(NotFound):
        await home.engine.activity.warn("other", by="", reason="", text="x", left=None)


async def test_typing_at_a_screen_is_use_and_looking_on_is_not(
    home: FakeDaemon, clock: Clock
) -> None:
    await home.up(spec(node("a", display=Display.VNC)))
    clock.go(100)
    async with home.engine.screens.viewer(A) as stream:
        assert await used(home) == (0, Source.SCREEN)
        clock.go(100)
        await stream.write(b"\x03" + bytes(9))
        assert await used(home) == (100, Source.SCREEN)
        await stream.write(b"\x04" + bytes(7))
        assert await used(home) == (0, Source.SCREEN)


@pytest.mark.parametrize(
    ("data", "touched"),
    [
        (b"\x03" + bytes(9), False),
        ((b"\x03" + bytes(9)) * 3, False),
        (b"\x04" + bytes(7), True),  # a key
        (b"\x05" + bytes(5), True),  # the mouse
        (b"\x03" + bytes(9) + b"\x05" + bytes(5), True),
    ],
)
def test_what_of_a_viewer_is_somebody_s_hand(data: bytes, *, touched: bool) -> None:
    assert is_touch(data) is touched


def test_a_bucket_takes_a_minute_s_chatter_at_once_and_no_more() -> None:
    tap = Tap(0)
    assert not tap.look(120, 0.0, 120)
    assert not tap.look(240, 60.0, 120)
    assert tap.look(361, 60.0, 120)
    assert tap.level == 0


def test_marks_do_not_go_back() -> None:
    seen = Seen(0.0)
    seen.mark(Source.EXEC, 9.0)
    seen.mark(Source.EXEC, 5.0)
    assert dict(seen.at(10.0)) == {Source.START: 0.0, Source.EXEC: 9.0}


def test_every_source_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "leases.md").read_text()
    assert [source for source in Source if f"| `{source}` |" not in text] == []
