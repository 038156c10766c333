"""watchdog: starts nodes again as their restart policy says, with back-off and a limit.

It acts when a node crashed, panicked or hung (mode on-failure and always), and when a guest powered
itself off (mode always). A stop that somebody asked for is left alone. What it did is kept in
`restarts.json`, so that the limit holds over restarts of the watchdog itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from labd.plugin import Client, Event, Plugin, PluginError

log = logging.getLogger("watchdog")
plugin = Plugin()

_STATE = "restarts.json"
_WELL = {"starting", "running", "ready", "paused", "stopping"}
_BUSY_TRIES, _BUSY_DELAY = 60, 1.0  # a lab may be held by an operation for a while
_tasks: dict[str, asyncio.Task[None]] = {}
_history: dict[str, list[float]] = {}


def seconds(name: str) -> float:
    """Return a setting that is a duration."""
    value: float = float(str(plugin.settings[name]))
    return value


def delay_for(restarts: int, first: float, longest: float) -> float:
    """Return how long to wait before the next restart, in seconds."""
    return min(longest, first * 2**restarts)


def recent(history: list[float], now: float, window: float) -> list[float]:
    """Return the restarts that still count."""
    return [at for at in history if now - at < window]


@plugin.on_start
async def load(lab: Client) -> None:
    """Read what was done before."""
    del lab
    with suppress(OSError, ValueError):
        text = await asyncio.to_thread((plugin.folder / _STATE).read_text)
        _history.update(json.loads(text))


@plugin.on("node.crashed")
@plugin.on("node.panicked")
async def failed(event: Event, lab: Client) -> None:
    """A node has failed."""
    watch(event, lab, failure=True)


@plugin.on("node.unresponsive")
async def hung(event: Event, lab: Client) -> None:
    """A node does not answer: it is given some time."""
    watch(event, lab, failure=True, patience=seconds("patience"))


@plugin.on("node.stopped")
async def stopped(event: Event, lab: Client) -> None:
    """A guest powered itself off; anything else was asked for."""
    if event.data.get("cause") == "guest-poweroff":
        watch(event, lab, failure=False)


@plugin.on("node.destroyed")
async def destroyed(event: Event, lab: Client) -> None:
    """There is nothing left to start."""
    del lab
    _history.pop(f"{event.lab}/{event.node}", None)


def watch(event: Event, lab: Client, *, failure: bool, patience: float = 0.0) -> None:
    """Deal with a node in a task of its own, so that one node's back-off holds up no other."""
    key = f"{event.lab}/{event.node}"
    old = _tasks.get(key)
    if old is not None and not old.done():
        return
    _tasks[key] = asyncio.create_task(restart(event, lab, failure=failure, patience=patience))


async def restart(event: Event, lab: Client, *, failure: bool, patience: float) -> None:
    """Start a node again, if its policy wants it and its limit allows it."""
    key = f"{event.lab}/{event.node}"
    try:
        await asyncio.sleep(patience)
        node = await lab.node(event.lab, event.node)
        policy = policy_of(node)
        mode = policy["mode"]
        if mode == "no" or (mode == "on-failure" and not failure):
            return
        now = time.time()
        history = recent(_history.get(key, []), now, float(str(policy["window"])))
        if len(history) >= int(str(policy["limit"])):
            log.warning(
                "%s failed again after %d restarts in %s s: giving up; `lab start %s` starts it",
                key,
                len(history),
                policy["window"],
                key,
            )
            return
        delay = delay_for(len(history), seconds("first-delay"), seconds("max-delay"))
        log.info("%s: %s; starting it again in %g s", key, event.type, delay)
        await asyncio.sleep(delay)
        if str((await lab.node(event.lab, event.node))["state"]) in _WELL:
            return  # somebody was quicker, or it came to by itself
        _history[key] = [*history, time.time()]
        plugin.keep(_STATE, json.dumps(_history))
        await start(event, lab)
    except PluginError as error:
        log.warning("%s could not be started again: %s", key, error)


def policy_of(node: Mapping[str, object]) -> Mapping[str, object]:
    """Return the restart policy of a node as the API tells it."""
    spec = node.get("spec")
    policy = spec.get("restart") if isinstance(spec, Mapping) else None
    return policy if isinstance(policy, Mapping) else {"mode": "no", "limit": 0, "window": 0}


async def start(event: Event, lab: Client) -> None:
    """Ask for the start, and again while another operation holds the lab."""
    key = f"{event.lab}/{event.node}"
    for _ in range(_BUSY_TRIES):
        state = str((await lab.node(event.lab, event.node))["state"])
        if state in _WELL:
            return
        try:
            if state in {"panicked", "unresponsive"}:
                operation = await lab.restart(event.lab, event.node, force=True)
            else:
                operation = await lab.start(event.lab, event.node)
        except PluginError as error:
            if error.code != "busy":
                raise
            await asyncio.sleep(_BUSY_DELAY)
            continue
        done = await lab.wait_operation(str(operation["id"]), 300.0)
        log.info("%s: %s", key, done["state"])
        return
    log.warning("%s: its lab stayed busy; giving up", key)


if __name__ == "__main__":
    plugin.run()
