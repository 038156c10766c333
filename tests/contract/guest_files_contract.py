"""What the engine may rely on of files in guests: held on the fake and on a real guest's agent."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from labd.drivers.node.capabilities import GuestFiles
from labd.model.errors import GuestFailed, NodeGone

_PART = 512 << 10


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def check_guest_files(files: GuestFiles, key: str) -> None:
    """Write and read files of a guest whose agent is there."""
    noise = random.Random(7).randbytes(3 * _PART + 5)
    for path, parts in {
        "/tmp/labd-empty": (),
        "/tmp/labd-small": (b"a", b"b\x00\xff\n"),
        "/tmp/labd-large": (noise[:100], noise[100 : 2 * _PART], noise[2 * _PART :]),
    }.items():
        assert await files.write(key, path, _parts(*parts)) == sum(map(len, parts))
        found = [part async for part in files.read(key, path)]
        assert b"".join(found) == b"".join(parts)
        assert all(0 < len(part) <= _PART for part in found)
    assert await files.write(key, "/tmp/labd-large", _parts(b"less")) == 4
    assert [part async for part in files.read(key, "/tmp/labd-large")] == [b"less"]

    with pytest.raises(GuestFailed, match="refused guest-file-open"):
        await anext(aiter(files.read(key, "/tmp/labd-nothing")))
    with pytest.raises(GuestFailed, match="refused guest-file-open"):
        await files.write(key, "/no/such/folder/x", _parts(b"x"))
    with pytest.raises(NodeGone):
        await files.write("k9", "/tmp/x", _parts(b"x"))
    with pytest.raises(NodeGone):
        await anext(aiter(files.read("k9", "/tmp/x")))
