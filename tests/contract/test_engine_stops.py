"""A daemon that is stopped in order, at each step of what it does: what is committed stays whole.

A stop cancels what is under way, where it just waits. That is tried at each place of the failpoints
by which a request comes, before and after the step, and within it (`cancel next`): within a commit,
too, after which nothing that the rows refer to may be taken back.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from labd.core.guard import COMMIT
from labd.model.checkpoints import SaveMode
from labd.model.errors import WorldError
from labd.model.events import EventType
from labd.model.images import ImageFormat
from labd.model.machine import RunState
from labd.model.publish import parse_publish
from labd.model.request_kinds import CheckpointRequest
from tests.asked import stops_asked
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, image, node, spec

LAB = spec(node("a"), node("b", "a"))
PUBLISHED = spec(node("a", publish=(parse_publish("8080:80"),)))
RAW = bytes(510) + b"\x55\xaa"
READY = {"a": "ready", "b": "ready"}
_WAITS = 0.5  # seconds after which a daemon is stopped, whatever still waits for it


async def nothing(_: FakeDaemon) -> None:
    """Begin with nothing."""


async def have_lab(home: FakeDaemon) -> None:
    await home.up(LAB)


async def have_checkpoint(home: FakeDaemon) -> None:
    await home.up(LAB)
    await save(home, "base")


async def have_warm(home: FakeDaemon) -> None:
    await have_checkpoint(home)
    await home.engine.pools.warm("base", 1)
    await home.filled()


async def save(home: FakeDaemon, name: str = "c", mode: SaveMode = SaveMode.LIVE) -> None:
    asked = await home.engine.checkpoints.save("web", name, mode=mode, message="")
    await home.engine.operations.wait(asked.id, LIMIT)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def receive_image(home: FakeDaemon, name: str = "sent") -> None:
    await home.engine.images.receive(
        name,
        once(RAW),
        format=ImageFormat.RAW,
        sha256="",
        source="",
        kernel_size=None,
        cmdline="",
        ready_pattern="",
    )


async def import_image(home: FakeDaemon) -> None:
    home.images.web["http://it/raw"] = RAW
    asked = await home.engine.images.download("sent", "http://it/raw", format=None, sha256="")
    await home.engine.operations.wait(asked.id, LIMIT)


async def receive_checkpoint(home: FakeDaemon) -> None:
    parts = [part async for part in home.engine.checkpoints.export("base")]
    await home.engine.checkpoints.receive("c", once(b"".join(parts)))


async def fork(home: FakeDaemon) -> None:
    for asked in await home.engine.checkpoints.fork("base", "copy", count=0, settings={}):
        await home.engine.operations.wait(asked.id, LIMIT)


async def warm(home: FakeDaemon) -> None:
    await home.engine.pools.warm("base", 2)
    await home.filled()


async def up(home: FakeDaemon) -> None:
    await home.engine.operations.wait((await home.engine.labs.up("web", LAB)).id, LIMIT)


async def publish(home: FakeDaemon) -> None:
    await home.engine.operations.wait((await home.engine.labs.up("web", PUBLISHED)).id, LIMIT)


@dataclass(frozen=True, slots=True)
class Scene:
    """One request, what is there before it, and the states of labs in which it may end."""

    prepare: Callable[[FakeDaemon], Awaitable[None]]
    ask: Callable[[FakeDaemon], Awaitable[None]]
    ends: tuple[dict[str, str], ...]


BOTH = {"web": "running", "copy": "running"}
SCENES = {
    "save": Scene(have_lab, save, ({"web": "running"},)),
    "save-stop": Scene(
        have_lab,
        lambda home: save(home, mode=SaveMode.STOP),
        ({"web": "running"}, {"web": "stopped"}),
    ),
    "image": Scene(nothing, receive_image, ({},)),
    "image-import": Scene(nothing, import_image, ({},)),
    "checkpoint-import": Scene(have_checkpoint, receive_checkpoint, ({"web": "running"},)),
    "fork": Scene(have_checkpoint, fork, ({"web": "running"}, BOTH)),
    "fork-warm": Scene(have_warm, fork, ({"web": "running"}, BOTH)),
    "warm": Scene(have_checkpoint, warm, ({"web": "running"},)),
    "up": Scene(nothing, up, ({}, {"web": "running"})),
    "up-published": Scene(nothing, publish, ({}, {"web": "running"})),
}


async def begun(home: FakeDaemon, scene: Scene, order: str, seconds: float = _WAITS) -> None:
    """Prepare, and ask with an order to the failpoints; return when the daemon may be stopped.

    Somebody who waits for what the order has cancelled would wait for ever.
    """
    home.order()
    await home.restart()  # with failpoints
    await scene.prepare(home)
    await home.settled()
    home.order(order)
    asked = asyncio.ensure_future(scene.ask(home))
    until = asyncio.get_running_loop().time() + seconds
    while not asked.done() and asyncio.get_running_loop().time() < until:
        await asyncio.wait({asked}, timeout=0.02)
        running = await home.inventory.operations(running=True)
        if running and not home.engine.operations.running():
            break
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def places(root: Path, scene: Scene) -> list[str]:
    """Return the visits of places by which a request comes, `name@number`."""
    trace = root / "trace"
    async with engine_over_fakes(root) as home:
        await begun(home, scene, f"* = trace {trace}", LIMIT)
        home.order()
    seen: Counter[str] = Counter()
    found = []
    for name in trace.read_text().split():
        seen[name] += 1
        found.append(f"{name}@{seen[name]}")
    return found


@pytest.mark.parametrize("name", SCENES)
async def test_a_stop_at_any_step_leaves_what_is_committed_whole(tmp_path: Path, name: str) -> None:
    scene = SCENES[name]
    (tmp_path / "first").mkdir()
    visits = await places(tmp_path / "first", scene)
    assert len(visits) > 3
    draw = random.Random(f"{stops_asked()[0]} {name}")
    for number, place in enumerate(visits):
        for how in hows(place, draw):
            root = tmp_path / f"{number}-{len(how)}"
            root.mkdir()
            try:
                await stopped(root, scene, f"{place} = {how}")
            except AssertionError as error:
                raise AssertionError(f"{name}, {place} = {how}: {error}") from error


def hows(place: str, draw: random.Random) -> list[str]:
    """Return how to stop at a place: before a commit, within and after it, elsewhere by chance."""
    if os.environ.get("SOAK"):
        return ["cancel", "cancel next"]
    if place.startswith(f"{COMMIT}:before"):
        return ["cancel", "cancel next"]
    if place.startswith(f"{COMMIT}:after"):
        return ["cancel"]
    return draw.choice([["cancel"], ["cancel next"], []])


async def check_told(home: FakeDaemon) -> None:
    """Assert that nothing of what a daemon has told was taken back as it stopped."""
    story = await home.story()
    said = [line.split()[1] for line in story if line.startswith("checkpoint.saved")]
    records = await home.inventory.checkpoints()
    assert [record.name for record in records] == sorted(said), "told, and so there"
    assert {record.key for record in records} <= set(home.checkpoints.kept), "with its files"
    requests = [operation.request for operation in await home.inventory.operations()]
    stops = any(isinstance(r, CheckpointRequest) and r.mode is SaveMode.STOP for r in requests)
    saved = stops and bool(records)
    live = {m.state for m in home.host.machines.values() if m.spec.lab == "web"}
    assert not saved or live <= {RunState.PAUSED}, "saved to be stopped, and did not run on"
    ran: set[tuple[str, str]] = set()
    for draft in [event.draft for event in await home.inventory.events(0, 10_000)]:
        node = draft.lab, draft.node
        ran |= {node} if draft.type == EventType.NODE_RUNNING else set()
        assert stops or draft.type != EventType.NODE_STOPPED or node not in ran, "it ran"


async def stopped(root: Path, scene: Scene, order: str) -> None:
    """Stop a daemon at one place, and assert what must hold under the next one."""
    async with engine_over_fakes(root) as home:
        await begun(home, scene, order)
        home.order()
        await home.close()
        await check_told(home)
        records = await home.inventory.checkpoints()
        await home.start()
        await home.check()
        labs = {lab.name: str(lab.state) for lab in await home.inventory.labs()}
        assert labs in scene.ends, labs
        rows = {item.digest for item in await home.inventory.images()} - {image("disk").digest}
        assert {f"sha256:{digest}" for digest in home.images.contents} == rows
        for record in records:
            await home.engine.checkpoints.usable(record.name)
            for asked in await home.engine.checkpoints.fork(
                record.name, f"try-{record.name}", count=0, settings={}
            ):
                await home.ok(home.engine.operations.get(asked.id))


async def test_a_warm_fork_that_was_told_to_stand_ready_does(tmp_path: Path) -> None:
    scene = SCENES["warm"]
    (tmp_path / "first").mkdir()
    commits = sum(
        name.startswith(f"{COMMIT}:after") for name in await places(tmp_path / "first", scene)
    )
    for number in range(1, commits + 1):
        root = tmp_path / str(number)
        root.mkdir()
        async with engine_over_fakes(root) as home:
            await begun(home, scene, f"{COMMIT}:after@{number} = cancel")
            home.order()
            await home.close()
            ready = [m for m in await home.inventory.pool_members() if m.state == "ready"]
            assert "pool.ready base" not in await home.story() or len(ready) == 2, number
            await home.start()


async def test_a_request_that_is_cancelled_as_it_is_accepted_keeps_its_ports(
    tmp_path: Path,
) -> None:
    hold = tmp_path / "hold"
    async with engine_over_fakes(tmp_path) as home:
        home.order()
        await home.restart()
        home.order(f"{COMMIT}:after@1 = cancel\nnetworks.apply:before = hold {hold}")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(home.engine.labs.up("web", PUBLISHED))
        async with held(home, hold):
            assert home.published_ports.open_ports() == {8080}, (
                "the operation has them, and needs them"
            )
        await home.idle()
        assert home.published_ports.open_ports() == {8080}


@asynccontextmanager
async def held(home: FakeDaemon, hold: Path) -> AsyncIterator[None]:
    """Wait until a daemon stands still at a place, and let it go on after the block."""
    try:
        async with asyncio.timeout(LIMIT):
            while not hold.exists():
                await asyncio.sleep(0.005)
        yield
    finally:
        home.order()
        hold.unlink(missing_ok=True)


async def test_a_lab_that_is_saved_to_be_stopped_never_runs_on(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    scene, hold = SCENES["save-stop"], tmp_path / "hold"
    visits = await places(tmp_path / "first", scene)
    behind = visits[visits.index("checkpoints.publish:after@1") :]
    commit = next(place for place in behind if place.startswith(f"{COMMIT}:after"))
    async with engine_over_fakes(tmp_path) as home:
        await begun(home, scene, f"{commit} = cancel")
        home.order(f"nodes.kill:before = hold {hold}")
        await home.close()
        await home.start()
        async with held(home, hold):
            states = {machine.state for machine in home.host.machines.values()}
            assert states == {RunState.PAUSED}
        await home.idle()
        assert await home.states() == {"a": "stopped", "b": "stopped"}


async def test_an_image_whose_row_cannot_be_written_leaves_no_files(tmp_path: Path) -> None:
    async with engine_over_fakes(tmp_path) as home:
        home.order()
        await home.restart()
        home.order(f"{COMMIT}:before = raise")
        with pytest.raises(WorldError):
            await receive_image(home)
        assert home.images.contents == {}
        home.order()
        await receive_image(home)
        assert len(home.images.contents) == 1
        # The same bytes, by another name: they stay for the first.
        home.order(f"{COMMIT}:before = raise")
        with pytest.raises(WorldError):
            await receive_image(home, "again")
        assert len(home.images.contents) == 1
        home.order()


async def test_time_that_is_over_as_the_last_is_committed_takes_nothing_back(
    tmp_path: Path,
) -> None:
    (tmp_path / "first").mkdir()
    commits = sum(
        name.startswith(f"{COMMIT}:after")
        for name in await places(tmp_path / "first", SCENES["up"])
    )
    async with engine_over_fakes(tmp_path) as home:
        home.order()
        await home.restart()
        # The very last says how the operation has ended.
        home.order(f"{COMMIT}:after@{commits - 1} = delay 60")
        await home.ok(home.engine.labs.up("web", LAB, timeout=5))
        assert await home.states() == READY
        home.order()
