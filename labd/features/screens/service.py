"""Screens of nodes: pictures, keys, viewers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labd.core.nodes import Nodes
from labd.core.state_writer import StateWriter
from labd.drivers.node.capabilities import ViewerStream
from labd.features.activity import ActivityService, AttendedScreen
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
    """Pictures, keys and viewers of nodes' screens.

    Each raises `InputError` for a node without a screen, `CapabilityMissing` for one of a kind that
    has none, and `IllegalTransition` for one that does
    not run.
    """

    def __init__(self, nodes: Nodes, state_writer: StateWriter, activity: ActivityService) -> None:
        self._nodes = nodes
        self._state_writer = state_writer
        self._activity = activity

    async def screenshot(self, ref: NodeRef) -> bytes:
        """Return what the screen shows as PNG."""
        node = await self._node(ref, _SHOWN, "take a picture of")
        return await self._nodes.screens(node.machine or node.key).screenshot(node.key)

    async def type(self, ref: NodeRef, text: str, chords: Sequence[str]) -> int:
        """Type a text, then chords such as `ctrl-alt-f2`; return how many keys were pressed.

        Raises:
            InputError: A character is not on a US keyboard, or a chord is none; nothing is typed.
        """
        keys = presses(text, chords)
        node = await self._node(ref, _HEARS, "type to")
        await self._nodes.screens(node.machine or node.key).press(node.key, keys)
        return len(keys)

    @asynccontextmanager
    async def viewer(self, ref: NodeRef) -> AsyncIterator[ViewerStream]:
        """Connect one more VNC viewer (RFC 6143, without a password)."""
        node = await self._node(ref, _SHOWN, "watch")
        stream = await self._nodes.screens(node.machine or node.key).viewer(node.key)
        try:
            yield AttendedScreen(stream, lambda: self._activity.touch(ref.lab, Source.SCREEN))
        finally:
            await stream.close()

    async def _node(self, ref: NodeRef, states: set[NodeState], action: str) -> NodeRecord:
        node = await self._state_writer.node(ref)
        if node.machine is not None:
            self._nodes.screens(node.machine)
        if node.machine is not None and node.machine.display is Display.NONE:
            raise InputError(
                f"node {ref} has no screen; write `display: vnc` for it in the template, and "
                "`lab up` again"
            )
        if node.state not in states:
            raise IllegalTransition(str(ref), str(node.state), sorted(map(str, states)), action)
        self._activity.touch(ref.lab, Source.SCREEN)
        return node
