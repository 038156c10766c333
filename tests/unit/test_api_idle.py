"""A server that nobody asks does nothing, and its answers have the right date all the same."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from fastapi import FastAPI

from labd.api.server import serving
from labd.api.services import Services, attach


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that keeps what it was asked to do later."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[str] = []

    def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def, override] # noqa: ANN001, ANN002, ANN201
        self.timers.append(repr(callback))
        return super().call_at(when, callback, *args, context=context)


def date_of(path: Path) -> float:
    """Return the date of an answer, seconds since 1970."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/v1/info")
    date = connection.getresponse().getheader("date")
    connection.close()
    assert date is not None
    return parsedate_to_datetime(date).timestamp()


def test_no_timer_and_the_date_of_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    loop = CountingLoop()

    async def main() -> None:
        app = FastAPI()
        attach(app, Services([], version="1"))
        async with serving(app, [listener]):
            loop.timers.clear()
            await asyncio.sleep(1.0)
            assert len(loop.timers) == 1, "that of this sleep alone"
            first = await asyncio.to_thread(date_of, path)
            assert first <= time.time() < first + 5
            await asyncio.sleep(1.1)
            assert await asyncio.to_thread(date_of, path) > first

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
