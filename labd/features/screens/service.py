"""Screens of nodes; see `facade_screens`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labd.core.state_writer import StateWriter
from labd.drivers.node.capabilities import Screens, ViewerStream
from labd.features.activity.attended import AttendedScreen
from labd.features.activity.service import ActivityService
from labd.model.activity import Source
from labd.model.errors import IllegalTransition, InputError
from labd.model.keys import presses
from labd.model.names import NodeRef
from labd.model.records import NodeRecord
from labd.model.specs import Display
from labd.model.states import NodeState

_SHOWN = {NodeState.RUNNING, NodeState.READY, NodeState.PAUSED, NodeState.PANICKED}
_HEARS = {NodeState.RUNNING, NodeState.READY}


class ScreenService:
    """Looks a node up and asks its screen."""

    def __init__(
        self, screens: Screens, state_writer: StateWriter, activity: ActivityService
    ) -> None:
        self._screens = screens
        self._state_writer = state_writer
        self._activity = activity

    async def screenshot(self, ref: NodeRef) -> bytes:
        """See `ScreensApi.screenshot`."""
        node = await self._node(ref, _SHOWN, "take a picture of")
        return await self._screens.screenshot(node.key)

    async def type(self, ref: NodeRef, text: str, chords: Sequence[str]) -> int:
        """See `ScreensApi.type`."""
        keys = presses(text, chords)
        node = await self._node(ref, _HEARS, "type to")
        await self._screens.press(node.key, keys)
        return len(keys)

    @asynccontextmanager
    async def viewer(self, ref: NodeRef) -> AsyncIterator[ViewerStream]:
        """See `ScreensApi.viewer`."""
        node = await self._node(ref, _SHOWN, "watch")
        stream = await self._screens.viewer(node.key)
        try:
            yield AttendedScreen(stream, lambda: self._activity.touch(ref.lab, Source.SCREEN))
        finally:
            await stream.close()

    async def _node(self, ref: NodeRef, states: set[NodeState], action: str) -> NodeRecord:
        node = await self._state_writer.node(ref)
        if node.machine is not None and node.machine.display is Display.NONE:
            raise InputError(
                f"node {ref} has no screen; write `display: vnc` for it in the template, and "
                "`lab up` again"
            )
        if node.state not in states:
            raise IllegalTransition(str(ref), str(node.state), sorted(map(str, states)), action)
        self._activity.touch(ref.lab, Source.SCREEN)
        return node
