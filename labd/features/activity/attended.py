"""Serial lines and screens that tell when somebody types at them."""

from __future__ import annotations

from collections.abc import Callable

from labd.drivers.node.capabilities import Console, ViewerStream

# RFC 6143 7.5.3: FramebufferUpdateRequest, by which a viewer that nobody touches asks on and on.
_UPDATE_REQUEST, _UPDATE_LENGTH = 3, 10


def is_touch(data: bytes) -> bool:
    """True if what a viewer sends is more than its asking for pictures; pure."""
    return len(data) % _UPDATE_LENGTH != 0 or any(
        kind != _UPDATE_REQUEST for kind in data[::_UPDATE_LENGTH]
    )


class AttendedConsole:
    """Implements `Console` by another one.

    Args:
        console: The other one.
        touch: Called at once, and for each input.
    """

    def __init__(self, console: Console, touch: Callable[[], None]) -> None:
        self._console, self._touch = console, touch
        touch()

    async def read(self) -> bytes:
        """See the port."""
        return await self._console.read()

    async def write(self, data: bytes) -> None:
        """See the port."""
        self._touch()
        await self._console.write(data)


class AttendedScreen:
    """Implements `ViewerStream` by another one.

    Args:
        stream: The other one.
        touch: Called when a key is pressed, the mouse is moved, or the like.
    """

    def __init__(self, stream: ViewerStream, touch: Callable[[], None]) -> None:
        self._stream, self._touch = stream, touch

    async def read(self) -> bytes:
        """See the port."""
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        """See the port."""
        if is_touch(data):
            self._touch()
        await self._stream.write(data)

    async def close(self) -> None:
        """See the port."""
        await self._stream.close()
