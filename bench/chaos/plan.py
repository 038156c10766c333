"""What a nemesis does, drawn from a seed: pure, so that a seed says it all.

A plan names labs, checkpoints and so on from small sets, whether or not they are there at that
moment: that a request is refused is as good an answer as any.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

CLIENTS: Final = 3
LABS: Final = ("a", "b", "c", "t")  # `t` has a Linux guest with an agent, the others boot sectors
FORKS: Final = ("f", "g")
CHECKPOINTS: Final = ("base", "later")
IMAGES: Final = ("extra", "more")
VARIANTS: Final = 3  # of each lab's template

# Verb of a client -> how often, in relation to the others.
VERBS: Final[Mapping[str, int]] = {
    "up": 14,
    "down": 4,
    "destroy": 5,
    "start": 5,
    "stop": 5,
    "restart": 3,
    "pause": 4,
    "resume": 5,
    "reset": 4,
    "attach-disk": 2,
    "save": 5,
    "remove-checkpoint": 3,
    "fork": 6,
    "restore": 2,
    "start-class": 2,
    "destroy-class": 2,
    "wires": 4,
    "exec": 3,
    "events": 3,
    "ls": 6,
    "status": 4,
    "import-image": 3,
    "remove-image": 3,
    "enable-plugin": 2,
    "disable-plugin": 1,
    "set-lease": 3,
    "cancel-lease": 1,
    "fsck": 1,
    "drop": 5,  # send a request and go before the answer
}

# Fault -> how often, in relation to the others.
FAULTS: Final[Mapping[str, int]] = {
    "kill-daemon": 5,
    "kill-daemon-twice": 2,
    "kill-both": 3,  # a QEMU ends while there is no daemon
    "stop-daemon": 2,
    "kill-qemu": 4,
    "stop-qemu": 4,
    "kill-broker": 2,
    "stop-broker": 2,
    "kill-dnsmasq": 2,
    "stop-dnsmasq": 1,
    "kill-plugin": 2,
    "stop-plugin": 1,
    "fill-disk": 2,
    "lock-database": 2,
    "fail-netlink": 3,
    "slow-world": 2,
    "jump-clock": 2,
}
# Ports at which a call fails or is slow, by the daemon's failpoints.
NETLINK: Final = ("networks.apply", "networks.open_taps", "networks.remove", "links.apply")
WORLD: Final = ("nodes.launch", "nodes.kill", "storage.child", "inventory.commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A request of a client, `at` seconds from the begin."""

    at: float
    client: int
    verb: str
    lab: str
    fork: str
    checkpoint: str
    image: str
    node: int
    variant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, `at` seconds from the begin.

    Attributes:
        pick: From 0 to below 1: which of those that are there at the moment.
        hold: Seconds until it is made good again.
        order: For the daemon's failpoints, or empty.
    """

    at: float
    kind: str
    pick: float
    hold: float
    order: str = ""


def acts(seed: int, seconds: float, rate: float = 1.5) -> Iterator[Act]:
    """Yield requests in the order of time, `rate` a second on average."""
    dice = random.Random(f"acts {seed}")
    at = 0.0
    while (at := at + dice.expovariate(rate)) < seconds:
        yield Act(
            at=at,
            client=dice.randrange(CLIENTS),
            verb=_draw(dice, VERBS),
            # The Linux guest is dear: a few requests are about it.
            lab=dice.choices(LABS, weights=(6, 6, 6, 1))[0],
            fork=dice.choice(FORKS),
            checkpoint=dice.choice(CHECKPOINTS),
            image=dice.choice(IMAGES),
            node=dice.randrange(3),
            variant=dice.randrange(VARIANTS),
        )


def faults(seed: int, seconds: float, every: float = 4.0) -> Iterator[Fault]:
    """Yield faults in the order of time, one in `every` seconds on average.

    The last tenth has none, so that what was begun may end under the eyes of the clients.
    """
    dice = random.Random(f"faults {seed}")
    at = every
    while (at := at + dice.uniform(0.2, 1.8) * every) < 0.9 * seconds:
        kind = _draw(dice, FAULTS)
        yield Fault(
            at=at,
            kind=kind,
            pick=dice.random(),
            hold=dice.choice((0.3, 1.0, 3.0, 8.0)),
            order=_order(dice, kind),
        )


def _order(dice: random.Random, kind: str) -> str:
    """Return what the failpoints of the daemon are told for a fault."""
    side = dice.choice(("before", "after"))
    match kind:
        case "fail-netlink":
            # As the port has it: what netlink says is a WorldError there.
            return f"{dice.choice(NETLINK)}:{side} = raise"
        case "slow-world":
            return f"{dice.choice(WORLD)}:{side} = delay {dice.choice((0.2, 1, 3))}"
        case "jump-clock":
            return f"clock.wall = offset {dice.choice((-86400, -60, 60, 86400))}"
    return ""


def _draw(dice: random.Random, weights: Mapping[str, int]) -> str:
    return dice.choices(list(weights), weights=list(weights.values()))[0]
