"""The jail as the kernel sees it: ids, capabilities, no-new-privs and namespaces in /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from labd.host.commands import run
from labd.host.identity import read_argv
from labd.host.jail import LOOKED_AT, PROGRAMS, WRITTEN_TO, Jail, Limits
from labd.host.landlock import Files
from labd.host.spawn import PIPE, Child, spawn
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


async def test_a_jailed_process_opens_what_it_was_given(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    given, other = tmp_path / "given", tmp_path / "other"
    for path in (given, other):
        path.write_text("x\n")
        path.chmod(0o666)
    opened = os.open(given, os.O_RDONLY)
    memory = os.memfd_create("m")
    os.write(memory, b"m\n")
    script = f"""cat /proc/self/fd/{opened} /proc/self/fd/{memory}
        cat {other}; echo y > {given}; echo y > {tmp_path}/new; ls {tmp_path}; cat /etc/passwd
        exec 2>/dev/null; setpriv --no-new-privs {given}; kill -0 {os.getpid()}; echo kill $?"""
    files = Files(run=PROGRAMS, read=LOOKED_AT, write=WRITTEN_TO, opened=(opened, memory))
    jail = Jail(uid=UID, gid=UID, files=files)
    try:
        done = await run(["sh", "-c", script], jail=jail, pass_fds=[opened, memory])
    finally:
        os.close(opened)
        os.close(memory)
    assert done.stdout == b"x\nm\nkill 1\n"
    said = done.stderr.decode().splitlines()
    assert len(said) == 5, said
    assert all(line.endswith("Permission denied") for line in said)
    assert sorted(tmp_path.iterdir()) == [given, other]


async def test_a_device_is_shown_to_one_process_alone(tmp_path: Path) -> None:
    node = tmp_path / "node"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # zero(4)
    node.chmod(0o666)
    full = Path("/dev/full")
    files = Files(run=PROGRAMS, read=LOOKED_AT, write=(*WRITTEN_TO, full))
    jail = Jail(uid=UID, gid=UID, files=files, device=(node, full))
    done = await run(["sh", "-c", f"echo x > {full}; cat /dev/zero"], jail=jail, check=False)
    assert b"/dev/zero: Permission denied" in done.stderr
    assert b"No space" not in done.stderr
    assert full.stat().st_rdev == os.makedev(1, 7)


async def test_limits_hold() -> None:
    limits = Limits(memory=64 << 20, cpu=1, file_size=4096, open_files=16)
    files = Files(run=PROGRAMS, read=LOOKED_AT, write=WRITTEN_TO)
    jail = Jail(uid=UID, gid=UID, files=files, limits=limits, pdeathsig="KILL")
    asked = "for one in v t f n c; do ulimit -$one; done"
    done = await run(["bash", "-c", asked], jail=jail)
    assert done.stdout.split() == [b"65536", b"1", b"4", b"16", b"0"]
    with pytest.raises(CommandFailed, match=r"was ended by SIG(KILL|XCPU)"):
        await run(["sh", "-c", "while :; do :; done"], jail=jail)


async def test_the_parents_death_is_told_when_asked() -> None:
    # A parent that spawns a jailed child, prints its pid, and is killed.
    code = f"""
import asyncio
from labd.host.jail import PROGRAMS, WRITTEN_TO, Jail
from labd.host.landlock import Files
from labd.host.spawn import spawn
OPEN = Files(run=PROGRAMS, write=WRITTEN_TO)
async def main():
    for sig, files in (("KILL", None), ("KILL", OPEN), ("", None)):
        jail = Jail(uid={UID}, gid={UID}, pdeathsig=sig, files=files)
        child = await spawn(["sleep", "98764"], jail=jail)
        await asyncio.sleep(0.3)
        print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[2]
    parent = await spawn([sys.executable, "-c", code], stdout=PIPE, env={"PYTHONPATH": str(root)})
    assert parent.stdout is not None
    # What is started in a thread of its own must not end with that thread, but with the parent.
    bound, inside, free = [int(await parent.stdout.readline()) for _ in range(3)]
    for pid in (bound, inside, free):
        assert read_argv(pid) == ("sleep", "98764")
    await parent.stop(grace=0)
    pidfd = os.pidfd_open(free)
    try:
        for _ in range(100):
            if read_argv(bound) == read_argv(inside) == ():
                break
            await asyncio.sleep(0.02)
        assert read_argv(bound) == read_argv(inside) == ()
        assert read_argv(free) == ("sleep", "98764")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
