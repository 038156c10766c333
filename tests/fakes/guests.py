"""Files of the guests of a `FakeHost`, with the contract of QEMU's (guest_files_contract.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from labd.model.errors import GuestAgentAbsent, GuestFailed, NodeGone
from tests.fakes.host import FakeHost, FakeMachine

_PART = 512 << 10


class FakeGuestFiles:
    """Implements the port `GuestFiles`; folders are those of a small Linux."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def _machine(self, key: str) -> FakeMachine:
        machine = self._host.machines.get(key)
        if machine is None:
            raise NodeGone(f"machine {key} does not run")
        if not machine.agent:
            raise GuestAgentAbsent(f"the guest agent of {machine.name} is not there")
        return machine

    async def read(self, key: str, path: str) -> AsyncIterator[bytes]:
        machine = self._machine(key)
        if path not in machine.files:
            raise GuestFailed(f"the guest agent of {machine.name} refused guest-file-open: {path}")
        data = machine.files[path]
        for at in range(0, len(data), _PART):
            yield data[at : at + _PART]

    async def write(self, key: str, path: str, content: AsyncIterator[bytes]) -> int:
        machine = self._machine(key)
        if path.rpartition("/")[0] not in {"", "/tmp", "/root"}:
            raise GuestFailed(f"the guest agent of {machine.name} refused guest-file-open: {path}")
        machine.files[path] = b"".join([part async for part in content])
        return len(machine.files[path])
