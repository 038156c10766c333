"""Files in guests: the fake here, a real guest's agent in tests/system/test_qemu_guest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.model.errors import GuestAgentAbsent
from tests.contract.guest_files_contract import check_guest_files
from tests.fakes.guests import FakeGuestFiles
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.guests import machine_spec


async def test_the_fake_keeps_the_contract(tmp_path: Path) -> None:
    host = FakeHost()
    hv = FakeHypervisor(host)
    files = FakeGuestFiles(host)
    await hv.launch(machine_spec(tmp_path), {})
    with pytest.raises(GuestAgentAbsent):
        await anext(aiter(files.read("k1", "/tmp/x")))
    await hv.resume("k1")
    host.open_agent("k1")
    await check_guest_files(files, "k1")
