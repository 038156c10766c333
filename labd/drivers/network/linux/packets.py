"""A packet socket (packet(7)) on a bridge or tap, read as pcapng.

The kernel keeps what its reader has not taken yet, up to a limit, and counts what it drops beyond
that; so a slow reader costs no more memory than that limit.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from labd.drivers.network.linux import pcapng
from labd.model.captures import CaptureEnd
from labd.model.errors import NetworkFailed

BUFFER: Final = 4 << 20  # bytes that the kernel keeps for a slow reader
_CHUNK = 256 << 10  # bytes that are given out in one go
_BATCH = 256  # frames that are read in one go: some milliseconds

# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _STATISTICS, _AUXDATA = 1, 6, 8
_MR_PROMISC = 1
_OUTGOING = 4
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_VLAN_VALID, _TPID_VALID = 0x10, 0x40  # TP_STATUS_*
_AUX = struct.Struct("IIIHHHH")
_TIME = struct.Struct("qq")
_8021Q = 0x8100

Instruction = tuple[int, int, int, int]  # code, jt, jf, k of linux/filter.h


def open_socket(device: str, program: Sequence[Instruction]) -> socket.socket:
    """Return a socket that gets every frame of a device of this namespace from now on.

    Raises:
        NetworkFailed: There is no such device, or the kernel refuses the filter.
    """
    # Protocol 0: nothing comes in before the filter is there.
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        if program:
            _attach(made, program)
        made.bind((device, _ETH_P_ALL))
        # A bridge hands its own stack what it forwards only then. It ends with the socket.
        membership = struct.pack("IHH8x", socket.if_nametoindex(device), _MR_PROMISC, 0)
        made.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
    except OSError as error:
        made.close()
        raise NetworkFailed(
            f"cannot capture at {device}: {error.strerror}", errno=error.errno
        ) from error
    return made


def _attach(made: socket.socket, program: Sequence[Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(code)
    made.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HL", len(program), ctypes.addressof(kept)),
    )


class PacketStream:
    """Frames of one socket as pcapng (`drivers.network.port.PacketCapture`).

    Args:
        made: From `open_socket`; closed with this.
        head: Blocks that come first.
        count: Frames after which it ends; 0: no limit.
    """

    def __init__(self, made: socket.socket, head: bytes, count: int) -> None:
        self._socket = made
        self._head = head
        self._left = count or -1
        self._buffer = bytearray(pcapng.SNAPLEN)
        self._began = time.time_ns()
        self._packets = 0
        self._seen = self._dropped = 0
        self._reason = ""
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return the next blocks; empty when it has ended."""
        head, self._head = self._head, b""
        if head:
            return head
        while not self._reason:
            if found := self._take():
                return found
            if not self._reason:
                await self._wait()
        return b""

    def _take(self) -> bytes:
        """Read what is there, within limits."""
        blocks: list[bytes] = []
        size = 0
        while size < _CHUNK and len(blocks) < _BATCH and not self._reason:
            try:
                block = self._one()
            except BlockingIOError:
                break
            except OSError as error:
                gone = error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO)
                self._reason = "the interface has gone" if gone else str(error.strerror)
                break
            blocks.append(block)
            size += len(block)
            self._packets += 1
            self._left -= 1
            if self._left == 0:
                self._reason = "count"
        return b"".join(blocks)

    def _one(self) -> bytes:
        got, notes, _, address = self._socket.recvmsg_into([self._buffer], 256)
        data = bytes(memoryview(self._buffer)[:got])
        stamp, length = time.time_ns(), got
        for level, kind, value in notes:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIME.unpack(value[: _TIME.size])
                stamp = seconds * 1_000_000_000 + nanoseconds
            elif level == _SOL_PACKET and kind == _AUXDATA:
                status, length, _, _, _, tag, kind_of_tag = _AUX.unpack(value[: _AUX.size])
                if status & _VLAN_VALID:
                    # The kernel took the tag off; put it back behind the addresses.
                    ethertype = kind_of_tag if status & _TPID_VALID else _8021Q
                    data = data[:12] + struct.pack("!HH", ethertype, tag) + data[12:]
                    length += 4
        return pcapng.packet(stamp, data, length, outbound=address[2] == _OUTGOING)

    async def _wait(self) -> None:
        """Wait until there is something to read, or `stop` was called."""
        stopped = asyncio.ensure_future(self._stop.wait())
        ready: asyncio.Future[None] = self._loop.create_future()

        def come() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(self._socket, come)
        try:
            either: set[asyncio.Future[Any]] = {ready, stopped}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._socket.fileno() >= 0:
                self._loop.remove_reader(self._socket)
            stopped.cancel()

    def stop(self, reason: str) -> None:
        """End it; what waits in `read` returns (idempotent)."""
        self._reason = self._reason or reason
        self._stop.set()

    def end(self) -> tuple[bytes, CaptureEnd]:
        """Return the last block, and how it went; the socket is closed."""
        self.close()
        tail = pcapng.statistics(self._began, time.time_ns(), self._seen, self._dropped)
        told = CaptureEnd(packets=self._packets, dropped=self._dropped, reason=self._reason)
        return tail, told

    def _count(self) -> None:
        # struct tpacket_stats; reading sets it back to zero.
        found = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        seen, dropped = struct.unpack("II", found)
        self._seen += seen
        self._dropped += dropped

    @property
    def closed(self) -> bool:
        """Nothing is held any more."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close the socket, and with it everything that the kernel keeps (idempotent)."""
        self.stop("closed")
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._count()
            self._socket.close()
