"""The links adapter: impairments of what NICs send (`drivers.network.port.Links`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

from labd.drivers.network.linux import netns, tc
from labd.host.threads import quick
from labd.model.errors import InputError
from labd.model.impairment import DECLARED, Impairment
from labd.model.links import ShapePlan


class LabLinks:
    """Queues of the taps of all labs of one root."""

    def __init__(self) -> None:
        self._done: dict[str, tc.Done] = {}
        # Each is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._no_netem: bool | None = None

    async def check(self, wanted: Iterable[Impairment]) -> None:
        """True if this kernel can do it; see the port. It is looked for once."""
        if not any(item.needs_netem for item in wanted):
            return
        if self._no_netem is None:
            self._no_netem = await netns.in_new_one(tc.netem_missing)
        if self._no_netem:
            *most, last = [item.name for item in DECLARED if item.netem]
            raise InputError(
                f"this kernel can limit rates only: {', '.join(most)} and {last} "
                "need its network emulator, CONFIG_NET_SCH_NETEM (module sch_netem)"
            )

    async def apply(self, namespace: str, shapes: Sequence[ShapePlan]) -> None:
        """Have exactly these impairments in a lab; see the port."""
        async with self._locks.setdefault(namespace, asyncio.Lock()):
            known = {*self._done, namespace}
            for gone in await quick(_missing, known):
                self.forget(gone)
                known.discard(gone)
            if namespace not in known:
                return
            done = self._done.setdefault(namespace, {})
            await netns.inside(namespace, lambda: tc.apply_shapes(shapes, done))

    def forget(self, namespace: str) -> None:
        """Drop what is known of a namespace that has gone."""
        self._done.pop(namespace, None)


def _missing(namespaces: Iterable[str]) -> list[str]:
    return [name for name in namespaces if not netns.exists(name)]
