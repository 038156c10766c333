"""The SDK alone: the cursor, gaps, repetitions, replay and failing handlers.

The seam is the client that every handler gets: here it is one that gives the events of a list.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from labd.client.errors import EventsPruned
from labd.client.types import EventPage
from labd.model.errors import DaemonUnreachable
from labd.plugin import Client, Event, Plugin


class Labd(Client):
    """A labd with `last` events, of which it keeps those from `first` on.

    `failures` are how many questions it does not answer, `asked` where the others began.
    """

    def __init__(self, last: int, first: int = 1) -> None:
        super().__init__("/nowhere")
        self.last, self.first = last, first
        self.failures = 0
        self.asked: list[int | None] = []

    async def events(
        self, after: int | None = None, limit: int = 500, *, lab: str = "", type: str = ""
    ) -> EventPage:
        if self.failures:
            self.failures -= 1
            raise DaemonUnreachable("labd does not run")
        self.asked.append(after)
        if after is not None and after + 1 < self.first:
            raise EventsPruned("pruned", first=self.first)
        seqs = [] if after is None else range(after + 1, self.last + 1)
        records: Any = [record(seq) for seq in seqs[:limit]]
        next_ = records[-1]["seq"] if records else after or 0
        return {"events": records, "first": self.first, "last": self.last, "next": next_}


def record(seq: int, type: str = "node.reset") -> dict[str, object]:
    return {"seq": seq, "type": f"io.labd.{type}", "lab": "web", "node": "a", "data": {}}


def message(seq: int, type: str = "node.reset") -> bytes:
    return json.dumps(record(seq, type)).encode()


class Ear:
    """A plugin in a folder, and what it has handled."""

    def __init__(self, folder: Path, since: str = "now", pattern: str = "*") -> None:
        self.plugin = Plugin(since)
        self.plugin.folder = folder
        self.heard: list[int] = []
        self.plugin.on(pattern)(self.told)

    async def told(self, event: Event, lab: Client) -> None:
        self.heard.append(event.seq)

    def cursor(self) -> str:
        return (self.plugin.folder / "cursor").read_text()


@pytest.mark.parametrize(
    ("kept", "since", "begins"),
    [
        (None, "now", 7),
        (None, "beginning", 0),
        ("3\n", "now", 3),
        ("0\n", "now", 0),
        ("", "now", 7),  # a power loss took what was in it
        ("900\n", "now", 0),  # of another inventory
    ],
)
async def test_where_it_begins(tmp_path: Path, kept: str | None, since: str, begins: int) -> None:
    if kept is not None:
        (tmp_path / "cursor").write_text(kept)
    ear = Ear(tmp_path, since)
    await ear.plugin._find_cursor(Labd(7))
    assert ear.cursor() == f"{begins}\n"
    assert (tmp_path / "cursor").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("enabled", "kept", "begins"),
    [
        ("4\n", None, 4),  # it came up late: what happened since it was enabled is not missed
        ("4\n", "6\n", 6),
        ("900\n", None, 7),  # of another inventory
        ("?", None, 7),
    ],
)
async def test_a_first_start_begins_where_it_was_enabled(
    tmp_path: Path, enabled: str, kept: str | None, begins: int
) -> None:
    (tmp_path / "since").write_text(enabled)
    if kept is not None:
        (tmp_path / "cursor").write_text(kept)
    ear = Ear(tmp_path)
    await ear.plugin._find_cursor(Labd(7))
    assert ear.cursor() == f"{begins}\n"


async def test_what_comes_in_order_is_handled_without_a_question(tmp_path: Path) -> None:
    ear, labd = Ear(tmp_path), Labd(9)
    for seq in (1, 2, 3):
        await ear.plugin._take(labd, message(seq))
    assert ear.heard == [1, 2, 3]
    assert labd.asked == []
    assert ear.cursor() == "3\n"


async def test_a_gap_is_replayed_first(tmp_path: Path) -> None:
    ear, labd = Ear(tmp_path), Labd(5)
    await ear.plugin._take(labd, message(1))
    await ear.plugin._take(labd, message(5))
    assert ear.heard == [1, 2, 3, 4, 5]
    assert labd.asked == [1]


async def test_a_gap_that_labd_cannot_fill_yet_waits(tmp_path: Path) -> None:
    # The message is ahead of what the endpoint gives: nothing is skipped for it.
    ear, labd = Ear(tmp_path), Labd(2)
    await ear.plugin._take(labd, message(4))
    assert ear.heard == [1, 2]
    labd.last = 4
    await ear.plugin._catch_up(labd)
    assert ear.heard == [1, 2, 3, 4]


async def test_repetitions_and_what_is_no_event_are_left_out(tmp_path: Path) -> None:
    ear, labd = Ear(tmp_path), Labd(2)
    for payload in (
        message(1),
        message(1),
        b"",
        b"{",
        b"[]",
        b'{"seq": "2"}',
        b'{"seq": 2, "data": []}',
        b"\xff",
        message(2, "node.snapshot"),
        message(2),
        message(1),
    ):
        await ear.plugin._take(labd, payload)
    assert ear.heard == [1, 2]
    assert labd.asked == []


async def test_many_missed_events_come_page_by_page(tmp_path: Path) -> None:
    ear, labd = Ear(tmp_path, "beginning"), Labd(1201)
    await ear.plugin._find_cursor(labd)
    await ear.plugin._catch_up(labd)
    assert ear.heard == list(range(1, 1202))
    assert labd.asked == [None, 0, 500, 1000]


async def test_what_is_pruned_is_told_and_passed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ear, labd = Ear(tmp_path), Labd(6, first=4)
    await ear.plugin._catch_up(labd)
    assert ear.heard == [4, 5, 6]
    assert "events 1 to 3 are lost: labd keeps them no more" in caplog.text


async def test_it_asks_until_labd_answers_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ear, labd = Ear(tmp_path), Labd(2)
    labd.failures = 2
    await ear.plugin._catch_up(labd)
    assert ear.heard == [1, 2]
    assert caplog.text.count("labd does not give events: labd does not run") == 1


async def test_a_failing_handler_is_called_again_before_the_next_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin, seen = Plugin(), list[tuple[int, str]]()
    plugin.folder = tmp_path

    @plugin.on("node.*")
    async def fails_once(event: Event, lab: Client) -> None:
        # What is noted counts the event as handled only behind its handlers.
        cursor = tmp_path / "cursor"
        seen.append((event.seq, cursor.read_text() if cursor.exists() else ""))
        if len(seen) == 1:
            raise ValueError("not yet")

    labd = Labd(2)
    await plugin._take(labd, message(1))
    await plugin._take(labd, message(2))
    assert seen == [(1, ""), (1, ""), (2, "1\n")]
    assert "handler failed for event 1; again in 1 s" in caplog.text


async def test_what_is_cancelled_in_a_handler_is_handled_again(tmp_path: Path) -> None:
    plugin, seen = Plugin(), list[int]()
    plugin.folder = tmp_path

    @plugin.on("*")
    async def long(event: Event, lab: Client) -> None:
        seen.append(event.seq)
        await asyncio.sleep(3600)

    task = asyncio.create_task(plugin._take(Labd(1), message(1)))
    async with asyncio.timeout(60):
        while not seen:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "cursor").exists()
    again = Ear(tmp_path, "beginning")
    await again.plugin._find_cursor(Labd(1))
    await again.plugin._catch_up(Labd(1))
    assert again.heard == [1]


async def test_only_what_somebody_wants_costs_a_write(tmp_path: Path) -> None:
    ear, labd = Ear(tmp_path, pattern="lab.*"), Labd(250)
    await ear.plugin._catch_up(labd)
    assert ear.heard == []
    assert ear.cursor() == "200\n"


async def test_kept_files_are_replaced_whole(tmp_path: Path) -> None:
    plugin = Plugin()
    plugin.folder = tmp_path
    plugin.keep("notes.json", "[1]")
    before = (tmp_path / "notes.json").stat().st_ino
    os.symlink("/etc/passwd", tmp_path / "notes.json.new")  # left by something else
    plugin.keep("notes.json", "[2]")
    assert (tmp_path / "notes.json").read_text() == "[2]"
    assert (tmp_path / "notes.json").stat().st_ino != before
    assert sorted(os.listdir(tmp_path)) == ["notes.json"]


def test_a_plugin_that_labd_did_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABD_PLUGIN_NAME", raising=False)
    with pytest.raises(SystemExit, match=r"a plugin is started by labd \(`lab plugin enable`\)"):
        Plugin().run()
