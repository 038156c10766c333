"""watchdog: starts nodes again as their restart policy says, with back-off and a limit.

It acts when a node crashed, panicked or hung (mode on-failure and always), and when a guest powered
itself off (mode always). What somebody stopped is left alone, also when that was after the failure.
What it did and what it still has to do is kept in `restarts.json`, so that neither the limit nor a
failure is forgotten when the watchdog itself is restarted.
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
_FAILED = {"crashed", "panicked", "unresponsive"}
_ASK_AGAIN = {"busy", "conflict", "illegal_transition", "no_room", "daemon_unreachable"}
_TRIES, _TRY_DELAY = 60, 1.0  # an operation may hold the lab for a while; seconds
_OPERATION = 600.0  # seconds that a start may take

# Both by LAB/NODE: times of restarts (seconds since the epoch), and failures not dealt with yet.
history: dict[str, list[float]] = {}
pending: dict[str, str] = {}
_news: set[str] = set()  # nodes of which something was heard since their task last looked
_tasks: dict[str, asyncio.Task[None]] = {}


def seconds(name: str) -> float:
    """Return a setting that is a duration."""
    value: float = float(str(plugin.settings[name]))
    return value


def delay_for(restarts: int, first: float, longest: float) -> float:
    """Return how long to wait before the next restart, in seconds."""
    return min(longest, first * 2.0 ** min(restarts, 64))


def recent(restarts: list[float], now: float, window: float) -> list[float]:
    """Return the restarts that still count."""
    return [at for at in restarts if now - at < window]


def policy_of(node: Mapping[str, object]) -> Mapping[str, object]:
    """Return the restart policy of a node as the API tells it."""
    spec = node.get("spec")
    policy = spec.get("restart") if isinstance(spec, Mapping) else None
    return policy if isinstance(policy, Mapping) else {"mode": "no", "limit": 0, "window": 0}


def is_due(node: Mapping[str, object], *, tried: bool = False) -> bool:
    """True if a node is down against its policy and nobody wanted it so.

    Args:
        node: As the API tells it.
        tried: The watchdog's own last start of it has failed, which leaves it stopped.
    """
    mode, state = policy_of(node)["mode"], node["state"]
    if mode == "no" or node.get("wanted") != "running":
        return False
    return state in _FAILED or (state == "stopped" and (mode == "always" or tried))


@plugin.on_start
async def load(lab: Client) -> None:
    """Go on with what was begun before."""
    with suppress(OSError, ValueError):
        state = json.loads(await asyncio.to_thread((plugin.folder / _STATE).read_text))
        history.update(state["history"])
        pending.update(state["pending"])
    for key, why in list(pending.items()):
        watch(key, why, lab)


def save() -> None:
    """Keep what was done and what is to do."""
    plugin.keep(_STATE, json.dumps({"history": history, "pending": pending}))


@plugin.on("node.crashed")
@plugin.on("node.panicked")
@plugin.on("node.unresponsive")
async def failed(event: Event, lab: Client) -> None:
    """A node has failed."""
    watch(f"{event.lab}/{event.node}", event.type, lab)


@plugin.on("node.stopped")
async def stopped(event: Event, lab: Client) -> None:
    """A guest powered itself off; any other stop was asked for."""
    if event.data.get("cause") == "guest-poweroff":
        watch(f"{event.lab}/{event.node}", event.type, lab)


@plugin.on("node.destroyed")
async def destroyed(event: Event, lab: Client) -> None:
    """There is nothing left to start."""
    del lab
    key = f"{event.lab}/{event.node}"
    known = history.pop(key, None), pending.pop(key, None)
    if any(known):
        save()


def watch(key: str, why: str, lab: Client) -> None:
    """Deal with a node in a task of its own, so that one node's back-off holds up no other.

    A failure while the task runs is its business too: it looks at the node until all is well.
    """
    _news.add(key)
    if pending.get(key) != why:
        pending[key] = why  # before the event counts as handled
        save()
    old = _tasks.get(key)
    if old is None or old.done():
        _tasks[key] = asyncio.create_task(care(key, lab))


async def care(key: str, lab: Client) -> None:
    """Start a node again until it stays up, nobody wants that any more, or the limit is reached."""
    outcome = ""
    try:
        while why := pending.get(key):
            if why == "node.unresponsive" and not outcome:
                await asyncio.sleep(seconds("patience"))
            _news.discard(key)
            outcome = await restart(key, why, lab, tried=outcome == "failed")
            if not outcome and key not in _news:
                break
    except PluginError as error:
        log.warning("%s could not be started again: %s", key, error)
    finally:
        # When it is cancelled the watchdog ends, and goes on with the rest at its next start.
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            pending.pop(key, None)
            _tasks.pop(key, None)
            save()


async def restart(key: str, why: str, lab: Client, *, tried: bool) -> str:
    """Start a node once if that is due; return how that ended, empty when nothing was done."""
    name, _, node_name = key.partition("/")
    node: Mapping[str, object] = {**await lab.node(name, node_name)}
    if not is_due(node, tried=tried):
        return ""
    policy = policy_of(node)
    window, limit = float(str(policy["window"])), int(str(policy["limit"]))
    done = recent(history.get(key, []), time.time(), window)
    if len(done) >= limit:
        log.warning(
            "%s failed again after %d restarts in %g s: giving up; `lab start %s` starts it",
            key,
            len(done),
            window,
            key,
        )
        return ""
    delay = delay_for(len(done), seconds("first-delay"), seconds("max-delay"))
    log.info("%s: %s; starting it again in %g s", key, why, delay)
    await asyncio.sleep(delay)
    return await ask(key, lab, done, tried=tried)


async def ask(key: str, lab: Client, done: list[float], *, tried: bool) -> str:
    """Ask for the start, and again while another operation holds the lab or labd is away."""
    name, _, node_name = key.partition("/")
    for _ in range(_TRIES):
        try:
            node: Mapping[str, object] = {**await lab.node(name, node_name)}
            if not is_due(node, tried=tried):
                return ""  # somebody was quicker, it came to by itself, or is not wanted
            if node["state"] in {"panicked", "unresponsive"}:
                operation = await lab.restart(name, node_name, force=True)
            else:
                operation = await lab.start(name, node_name)
        except PluginError as error:
            if error.code not in _ASK_AGAIN:
                raise
            await asyncio.sleep(_TRY_DELAY)
            continue
        history[key] = [*done, time.time()]
        save()
        ended = await lab.wait_operation(str(operation["id"]), _OPERATION)
        log.info("%s: its start is told as %s", key, ended["state"])
        return str(ended["state"])
    log.warning("%s: its lab could not take the start; giving up", key)
    return ""


if __name__ == "__main__":
    plugin.run()
