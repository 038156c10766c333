"""A guest's serial log on a disk that is full: output is not kept, and nothing else happens."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labd.drivers.node.qemu.console import ConsoleHub
from tests.system.harness import until

SIZE = 64 << 10  # bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", tmp_path], check=True)
    yield tmp_path
    # A child that another thread has just forked may have its descriptors until it executes.
    until(lambda: _unmounted(tmp_path), "nobody uses the file system any more")


def _unmounted(folder: Path) -> bool:
    return subprocess.run(["umount", folder], check=False).returncode == 0


async def test_no_space_for_the_log_holds_up_neither_guest_nor_viewers(disk: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    log = disk / "console.log"
    lost: list[bool] = []
    hub = ConsoleHub(log, "web/server", lambda: lost.append(True))
    await hub.attach(ours, fresh=True)
    disk_reserve = disk / "ballast"
    with disk_reserve.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    try:
        with hub.viewer() as viewer:
            waiting = asyncio.create_task(hub.wait("^ready$"))
            said = b"x" * 8000 + b"\nready\n"
            await loop.sock_sendall(theirs, said)
            assert await asyncio.wait_for(waiting, 10) == "ready"
            seen = b""
            while len(seen) < len(said):
                seen += await asyncio.wait_for(viewer.read(), 10)
            assert seen == said
        assert log.stat().st_size < len(said)
        disk_reserve.unlink()
        await loop.sock_sendall(theirs, b"there is room again\n")
        await asyncio.wait_for(hub.wait("room again"), 10)
        assert b"there is room again" in log.read_bytes()
        assert not lost
    finally:
        hub.end()
        theirs.close()
        await asyncio.sleep(0)
