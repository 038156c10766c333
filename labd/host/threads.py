"""Work in a thread that is used for nothing else.

Namespaces, Landlock's rules and the parent-death signal belong to a thread (namespaces(7),
landlock(7), PR_SET_PDEATHSIG of prctl(2)). A thread that changes what it may do never comes back,
so nothing has to be restored, and the event loop's thread never moves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], linger: Callable[[], None] | None = None) -> T:
    """Run `work` in a thread of its own and return its result.

    Cancelled, however often, it waits for the end of `work` all the same: a thread cannot be
    stopped half way, and whoever undoes its work must find it ended. So `work` must have an end: it
    talks to the kernel, and to nobody who may let it wait.

    Args:
        work: What to do.
        linger: Called in that thread after the result was told: what `work` made may need its
            thread to live. Not called when `work` fails.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            problem = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, problem)
        if problem is None and linger is not None:
            linger()

    threading.Thread(target=run, name="own", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({done})
        raise
