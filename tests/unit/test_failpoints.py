"""Orders to the failpoints of a daemon."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from labd.host.failpoints import Failpoints
from labd.model.errors import WorldError


def test_nothing_is_done_without_a_file_of_orders() -> None:
    points = Failpoints()
    assert not points.armed
    assert points.offset("clock.wall") == 0
    points.reach_sync("networks.apply:before")


def test_orders_are_read_when_a_place_is_reached(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    points = Failpoints(orders)
    points.reach_sync("a:before")  # a file that is not there orders nothing
    orders.write_text("a:before@2 = raise\nb:after = errno ENOSPC\nclock.wall = offset -60.5\n")
    points.reach_sync("a:before")
    with pytest.raises(WorldError):
        points.reach_sync("a:before")
    with pytest.raises(OSError, match="No space") as caught:
        points.reach_sync("b:after")
    assert caught.value.errno == errno.ENOSPC
    assert points.offset("clock.wall") == -60.5
    assert points.offset("a:before") == 0


@pytest.mark.parametrize(("order", "goes_on"), [("cancel", False), ("cancel next", True)])
async def test_a_task_is_cancelled_here_or_where_it_waits_next(
    tmp_path: Path, order: str, goes_on: bool
) -> None:
    orders = tmp_path / "orders"
    orders.write_text(f"a:before = {order}\n")
    went_on = False

    async def work() -> None:
        nonlocal went_on
        await Failpoints(orders).reach("a:before")
        went_on = True
        await asyncio.sleep(60)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert went_on is goes_on


def test_a_clock_that_is_looked_at_is_no_place(tmp_path: Path) -> None:
    orders, trace = tmp_path / "orders", tmp_path / "trace"
    orders.write_text(f"* = trace {trace}\nclock.wall = offset 5\n")
    points = Failpoints(orders)
    assert points.offset("clock.wall") == 5
    points.reach_sync("a:before")
    assert trace.read_text() == "a:before\n"


def test_visits_are_counted_anew_for_new_orders_in_an_old_inode(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    points = Failpoints(orders)
    orders.write_text("b:before = raise\n")
    points.reach_sync("a:before")
    orders.write_text("a:before@1 = raise\n")
    with pytest.raises(WorldError):
        points.reach_sync("a:before")
