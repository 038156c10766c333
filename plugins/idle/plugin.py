"""idle: stops or pauses labs that nobody uses, or gives them a lease.

It asks labd how long each lab has been idle (`GET /v1/activity`), warns by an event, and acts when
the lab is still idle after that. A plugin that was started again warns again first, so that nobody
is cut off without a word. Leases that it gave are in `leases.json`: they are cancelled when the lab
is used again, unless somebody changed them meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from labd.plugin import Client, Event, Plugin, PluginError

log = logging.getLogger("idle")
plugin = Plugin()

_STATE = "leases.json"
_SLOWEST, _QUICKEST = 15.0, 0.5  # seconds between two looks
_ASK_AGAIN = {"busy", "conflict", "illegal_transition", "daemon_unreachable"}
_DONE = {"stop": "stopped", "pause": "paused", "lease": "given a lease"}

leases: dict[str, str] = {}  # lab -> the end of the lease that it was given here
_tasks: list[asyncio.Task[None]] = []


class Step(Enum):
    """What is due for a lab."""

    NOTHING = "nothing"
    WARN = "warn"
    ACT = "act"


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The settings; times in seconds."""

    after: float
    warn_before: float
    action: str
    exempt: tuple[str, ...]
    ignore: tuple[str, ...]
    lease: float

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Policy:
        """Read them as labd has checked them."""
        return cls(
            after=float(str(settings["after"])),
            warn_before=float(str(settings["warn-before"])),
            action=str(settings["action"]),
            exempt=_texts(settings["exempt"]),
            ignore=_texts(settings["ignore"]),
            lease=float(str(settings["lease"])),
        )

    def spares(self, lab: str) -> bool:
        """True if a lab is never touched."""
        return any(fnmatchcase(lab, pattern) for pattern in self.exempt)

    def idle(self, activity: Mapping[str, object]) -> float:
        """Return how long nobody has used a lab, as labd tells it, in seconds."""
        sources = activity["sources"]
        ago = dict(sources) if isinstance(sources, Mapping) else {}
        return min((float(v) for k, v in ago.items() if k not in self.ignore), default=0.0)

    @property
    def interval(self) -> float:
        """Return the seconds between two looks: a tenth of what is measured, within bounds."""
        times = [time for time in (self.after, self.warn_before) if time > 0]
        return min(_SLOWEST, max(_QUICKEST, min(times, default=0.0) / 10))


@dataclass(kw_only=True)
class Lab:
    """What was done about a lab since it was active last.

    Attributes:
        idle: Seconds since then, at the last look.
        warned: When it was warned, by the clock of `time.monotonic`.
        acted: Nothing more is to do until it is active again.
    """

    idle: float
    warned: float | None = None
    acted: bool = False

    def step(self, policy: Policy, now: float) -> Step:
        """Tell what is due; pure. Between warning and action is always `warn_before`."""
        if self.acted:
            return Step.NOTHING
        if policy.warn_before and self.warned is None:
            early = self.idle >= policy.after - policy.warn_before
            return Step.WARN if early else Step.NOTHING
        warned = self.warned is None or now - self.warned >= policy.warn_before
        return Step.ACT if self.idle >= policy.after and warned else Step.NOTHING


def seen(known: Lab | None, idle: float) -> tuple[Lab, bool]:
    """Return what is known of a lab that is idle for so long, and whether it was used since; pure.

    A time that has become shorter is the sign: when the answer came depends on the load.
    """
    if known is None or idle < known.idle:
        return Lab(idle=idle), known is not None
    known.idle = idle
    return known, False


@plugin.on_start
async def begin(lab: Client) -> None:
    """Go on with what was begun before, and look from now on."""
    with suppress(OSError, ValueError):
        leases.update(json.loads(await asyncio.to_thread((plugin.folder / _STATE).read_text)))
    _tasks.append(asyncio.create_task(watch(lab, Policy.of(plugin.settings))))


def save() -> None:
    """Keep which leases were given here."""
    plugin.keep(_STATE, json.dumps(leases))


@plugin.on("lab.lease-set")
async def lease_set(event: Event, lab: Client) -> None:
    """A lease that somebody else sets or extends is theirs."""
    del lab
    if event.lab not in leases or event.data.get("ends") == leases[event.lab]:
        return
    if event.data.get("cause") == "clock":
        leases[event.lab] = str(event.data["ends"])
    else:
        del leases[event.lab]
    save()


@plugin.on("lab.lease-cancelled")
@plugin.on("lab.destroyed")
async def lease_gone(event: Event, lab: Client) -> None:
    """There is nothing left to cancel."""
    del lab
    if leases.pop(event.lab, None) is not None:
        save()


async def watch(lab: Client, policy: Policy) -> None:
    """Look at all labs for ever."""
    labs: dict[str, Lab] = {}
    while True:
        try:
            await look(lab, policy, labs)
        except PluginError as error:
            log.warning("labd does not tell which labs are idle: %s", error)
        await asyncio.sleep(policy.interval)


async def look(lab: Client, policy: Policy, labs: dict[str, Lab]) -> None:
    """Do once what is due for each lab that runs."""
    found = await lab.call(lambda client: client.activity.all())
    now = time.monotonic()
    for name in labs.keys() - {item["lab"] for item in found}:
        del labs[name]
    for item in found:
        name, idle = item["lab"], policy.idle(item)
        if policy.spares(name):
            continue
        labs[name], again = seen(labs.get(name), idle)
        try:
            if again and name in leases:
                await take_back(lab, name)
            step = labs[name].step(policy, now)
            if step is Step.WARN:
                await warn(lab, policy, name, idle)
                labs[name].warned = now
            elif step is Step.ACT and await is_idle(lab, policy, name):
                labs[name].acted = await act(lab, policy, name)
        except PluginError as error:
            if error.code != "not_found":  # it is gone meanwhile
                log.warning("lab %s: %s", name, error)


async def is_idle(lab: Client, policy: Policy, name: str) -> bool:
    """Ask about one lab, which labd then looks at anew: the list may be some seconds old."""
    found = await lab.call(lambda client: client.activity.get(name))
    return found["running"] and policy.idle(found) >= policy.after


async def warn(lab: Client, policy: Policy, name: str, idle: float) -> None:
    """Tell everybody what is about to happen."""
    left = max(policy.warn_before, policy.after - idle)
    text = (
        f"nobody has used lab {name} for {idle:.0f} s; in {left:.0f} s it is {_DONE[policy.action]}"
    )
    await lab.call(lambda client: client.activity.warn(name, text, reason="idle", left=left))
    log.info("%s", text)


async def act(lab: Client, policy: Policy, name: str) -> bool:
    """Do to an idle lab what the policy says; tell whether that is done with."""
    try:
        if policy.action == "lease":
            await give(lab, policy, name)
            return True
        operation = await lab.act("pause" if policy.action == "pause" else "down", name)
    except PluginError as error:
        if error.code not in _ASK_AGAIN:
            raise
        log.info("lab %s cannot be %s yet: %s", name, _DONE[policy.action], error)
        return False
    log.info("lab %s is idle and is %s (%s)", name, _DONE[policy.action], operation["id"])
    return True


async def give(lab: Client, policy: Policy, name: str) -> None:
    """Give a lab a lease, unless it has one."""
    if (await lab.lab(name))["lease"] is not None:
        log.info("lab %s is idle, and has a lease already", name)
        return
    term = {"seconds": policy.lease, "warn": [policy.warn_before] if policy.warn_before else []}
    made = await lab.call(lambda client: client.leases.set(name, term))
    leases[name] = made["ends"]
    save()
    log.info("lab %s is idle and has a lease until %s", name, made["ends"])


async def take_back(lab: Client, name: str) -> None:
    """Cancel the lease that a lab was given here: it is used again."""
    if (await lab.lab(name))["lease"] is not None:
        await lab.call(lambda client: client.leases.cancel(name))
        log.info("lab %s is used again: its lease is cancelled", name)
    leases.pop(name, None)
    save()


if __name__ == "__main__":
    plugin.run()
