"""The jail as the kernel sees it: ids, capabilities, no-new-privs and namespaces in /proc."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from labd.host.identity import read_argv
from labd.host.jail import Jail
from labd.host.spawn import PIPE, Child, run, spawn
from labd.model.errors import CommandFailed

UID = 2_147_000_000


def status(child: Child) -> dict[str, str]:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return {
        key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)
    }


def net_of(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


async def started(jail: Jail) -> Child:
    child = await spawn(["sh", "-c", "echo up; exec sleep 60"], stdout=PIPE, jail=jail)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    return child


async def test_a_jailed_process_has_nothing_left() -> None:
    child = await started(Jail(uid=UID, gid=UID + 1))
    try:
        seen = status(child)
        assert seen["Uid"] == " ".join([str(UID)] * 4)
        assert seen["Gid"] == " ".join([str(UID + 1)] * 4)
        assert seen["Groups"] == ""
        assert seen["NoNewPrivs"] == "1"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(seen[name], 16) == 0, name
        assert net_of(child.pid) != net_of("self")
        interfaces = Path(f"/proc/{child.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        # The pid is that of the program: unshare and setpriv have become it.
        assert os.getsid(child.pid) == child.pid
    finally:
        await child.stop(grace=0)


async def test_supplementary_groups_are_those_given() -> None:
    child = await started(Jail(uid=UID, gid=UID, groups=(UID + 5, UID + 6), new_netns=False))
    try:
        assert status(child)["Groups"] == f"{UID + 5} {UID + 6}"
        assert net_of(child.pid) == net_of("self")
    finally:
        await child.stop(grace=0)


async def test_a_jail_joins_a_namespace_and_keeps_a_capability() -> None:
    name = f"labd-t{os.getpid()}"
    await run(["ip", "netns", "add", name])
    try:
        jail = Jail(
            uid=UID, gid=UID, netns=Path(f"/run/netns/{name}"), keep_caps=("net_bind_service",)
        )
        child = await started(jail)
        try:
            inode = Path(f"/run/netns/{name}").stat().st_ino
            assert net_of(child.pid) == f"net:[{inode}]"
            net_bind_service = 1 << 10
            seen = status(child)
            for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(seen[kind], 16) == net_bind_service, kind
        finally:
            await child.stop(grace=0)
    finally:
        await run(["ip", "netns", "del", name])


async def test_a_jailed_process_cannot_read_what_is_not_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    with pytest.raises(CommandFailed, match="Permission denied"):
        await run(["cat", str(secret)], jail=Jail(uid=UID, gid=UID))


async def test_a_missing_program_in_a_jail_is_told() -> None:
    with pytest.raises(CommandFailed, match=r"exit status 127: .*no-such-program"):
        await run(["no-such-program"], jail=Jail(uid=UID, gid=UID))


async def test_passed_descriptors_go_through_the_jail() -> None:
    read_end, write_end = os.pipe()
    try:
        await run(
            ["bash", "-c", f"echo in >&{write_end}"],
            pass_fds=[write_end],
            jail=Jail(uid=UID, gid=UID),
        )
        assert os.read(read_end, 10) == b"in\n"
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_the_parents_death_is_told_when_asked() -> None:
    # A parent that spawns a jailed child, prints its pid, and is killed.
    code = f"""
import asyncio
from labd.host.jail import Jail
from labd.host.spawn import spawn
async def main():
    for sig in ("KILL", ""):
        child = await spawn(["sleep", "98764"], jail=Jail(uid={UID}, gid={UID}, pdeathsig=sig))
        await asyncio.sleep(0.3)
        print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[2]
    parent = await spawn([sys.executable, "-c", code], stdout=PIPE, env={"PYTHONPATH": str(root)})
    assert parent.stdout is not None
    bound = int(await parent.stdout.readline())
    free = int(await parent.stdout.readline())
    assert read_argv(bound) == read_argv(free) == ("sleep", "98764")
    await parent.stop(grace=0)
    pidfd = os.pidfd_open(free)
    try:
        for _ in range(100):
            if read_argv(bound) == ():
                break
            os.sched_yield()
        assert read_argv(bound) == ()
        assert read_argv(free) == ("sleep", "98764")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
