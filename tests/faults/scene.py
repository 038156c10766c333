"""What is asked of a daemon that dies: where it begins, what is asked, and where it may end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from labd.client.client import Client
from labd.client.types import Operation

LAB = "faulty"

Outcome = dict[str, str]  # node -> state, and "" -> the lab's state; empty: there is no lab


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One request.

    Attributes:
        prepare: Makes the state before it.
        ask: Asks for it; a failure of the connection is no fault.
        ends: Lab -> every state of it in which all may end: done, or undone.
        settled: Tells whether the daemon has nothing more to do for it after a recovery.
        lasting: `prepare` makes the state before it out of each of its ends, too.
        only: The places to die at; empty: all that it comes by.
        recovery: Places at which the next daemon dies, too, besides commits.
        image: Recipe of an image that it needs.
    """

    prepare: Callable[[Client], object]
    ask: Callable[[Client], object]
    ends: Mapping[str, Collection[Outcome]]
    settled: Callable[[Client], bool] = lambda _: True
    lasting: bool = False
    only: Collection[str] = ()
    recovery: Sequence[str] = ()
    image: str = "bootsector"


def settle(client: Client, operation: Operation, seconds: float = 180) -> None:
    """Wait for the end of an operation that must succeed."""
    ended = Client.check_operation(client.wait_operation(operation["id"], seconds))
    assert ended["state"] != "running", f"{ended['kind']} has not ended within {seconds:g} s"
