"""Have labd import every hostile disk, and print what it said: run under strace by the tests.

python -m tests.hostile.imports FOLDER CANARY
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from labd.drivers.storage.local.images import ImageStore
from labd.images.convert import Converter
from labd.model.errors import LabdError
from tests.hostile.disks import DISKS

UID = 2_147_000_321


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _main(folder: Path, canary: str) -> None:
    store = ImageStore(folder / "state", folder / "cache", converter=Converter(UID))
    said = {}
    for disk in DISKS:
        try:
            image = await store.receive("x", _once(disk.make(canary)), format=disk.format)
        except LabdError as error:
            said[disk.name] = error.message
        else:
            said[disk.name] = ""
            await store.discard(image)
    left = sorted(os.listdir(folder / "state" / "images" / ".partial"))
    own, below = (
        resource.getrusage(who).ru_maxrss << 10
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    json.dump({"said": said, "left": left, "memory": own, "below": below}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
