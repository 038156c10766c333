"""Child processes as any user: environment, descriptors, ends and errors, with real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labd.host.commands import run
from labd.host.identity import (
    FoundProcess,
    end,
    identify,
    is_alive,
    kill,
    read_argv,
    read_stat,
    scan,
    watch_exit,
)
from labd.host.jail import Jail, Limits
from labd.host.landlock import Files
from labd.host.spawn import NULL, PIPE, spawn
from labd.model.errors import CommandFailed, InputError
from labd.model.process import ProcessId

# A duration that no other test run on this host sleeps.
NAP = f"600.{os.getpid()}"


async def sleepers() -> list[FoundProcess]:
    """Wait until there are processes that sleep for NAP."""
    async with asyncio.timeout(5):
        while not (found := scan(lambda argv: list(argv) == ["sleep", NAP])):
            await asyncio.sleep(0.01)
    return found


async def test_run_returns_what_a_command_said() -> None:
    done = await run(["sh", "-c", "cat; echo oops >&2"], input=b"hello")
    assert (done.status, done.stdout, done.stderr) == (0, b"hello", b"oops\n")


async def test_a_child_has_a_minimal_environment_and_its_own_session() -> None:
    os.environ["LABD_TEST_SECRET"] = "x"
    try:
        done = await run(["sh", "-c", "env; ps -o sid= -p $$; echo $$"], env={"EXTRA": "1"})
    finally:
        del os.environ["LABD_TEST_SECRET"]
    *variables, session, pid = done.stdout.decode().split()
    names = {entry.split("=")[0] for entry in variables}
    assert {"PATH", "LANG", "EXTRA"} <= names <= {"PATH", "LANG", "EXTRA", "PWD", "_", "SHLVL"}
    assert session == pid


async def test_only_passed_descriptors_reach_the_child() -> None:
    read_end, write_end = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        done = await run(
            ["sh", "-c", f"echo hi >/proc/$$/fd/{write_end}; ls /proc/$$/fd"], pass_fds=[write_end]
        )
        os.close(write_end)
        assert os.read(read_end, 10) == b"hi\n"
    finally:
        os.close(read_end)
        os.close(other)
    open_there = {int(name) for name in done.stdout.split()}
    assert write_end in open_there
    assert other not in open_there


async def test_a_failure_carries_the_last_words() -> None:
    with pytest.raises(CommandFailed) as caught:
        await run(["sh", "-c", "echo first >&2; echo 'no such disk' >&2; exit 3"])
    assert str(caught.value) == "sh failed with exit status 3: no such disk"
    assert caught.value.details["status"] == 3
    assert caught.value.details["stderr"] == "first\nno such disk"


async def test_without_check_the_status_is_returned() -> None:
    assert (await run(["false"], check=False)).status == 1


async def test_a_missing_program_is_told_with_its_package() -> None:
    with pytest.raises(CommandFailed, match=r"cannot start no-such-program: not found; PATH is "):
        await run(["no-such-program"])


async def test_a_file_that_may_not_be_executed(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    with pytest.raises(CommandFailed, match="Permission denied"):
        await run([str(plain)])


async def test_a_command_that_hangs_is_killed_with_all_it_started() -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"sh did not end within 0\.2 s and was killed"):
        await run(["sh", "-c", f"sleep {NAP} & sleep {NAP}"], timeout=0.2)
    assert time.monotonic() - began < 2
    await asyncio.sleep(0.05)
    assert scan(lambda argv: NAP in argv[-1]) == []


async def test_a_flood_of_output_is_cut() -> None:
    with pytest.raises(CommandFailed, match="wrote more than 1000000 bytes and was killed"):
        await run(["yes"], max_output=1_000_000, timeout=20)


async def test_cancelling_a_command_kills_it() -> None:
    task = asyncio.create_task(run(["sleep", NAP]))
    (found,) = await sleepers()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(found.process)


async def test_a_command_that_does_not_read_its_input() -> None:
    done = await run(["true"], input=b"x" * 1_000_000)
    assert done.status == 0


async def test_stop_asks_first_and_then_kills() -> None:
    polite = await spawn(["sleep", "60"])
    assert await polite.stop(grace=5) == -signal.SIGTERM
    code = "import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(60)"
    deaf = await spawn([sys.executable, "-c", code], stdout=PIPE)
    assert deaf.stdout is not None
    await deaf.stdout.readline()
    assert await deaf.stop(grace=0.1) == -signal.SIGKILL
    assert await deaf.stop() == -signal.SIGKILL
    assert deaf.send_signal(signal.SIGTERM) is False
    assert deaf.status == -signal.SIGKILL


async def test_a_stopped_process_is_killed_too() -> None:
    child = await spawn(["sleep", "60"])
    child.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(60):
        while (read_stat(child.pid) or "")[0] != "T":
            await asyncio.sleep(0.01)
    assert await child.stop(grace=0.1) == -signal.SIGKILL


async def test_a_released_child_lives_on() -> None:
    child = await spawn(["sleep", "60"])
    child.release()
    assert is_alive(child.process)
    assert kill(child.process, signal.SIGKILL) is True
    os.waitpid(child.pid, 0)


async def test_many_children_at_once() -> None:
    children = [await spawn(["sh", "-c", f"exit {n}"]) for n in range(40)]
    assert [await child.wait() for child in children] == list(range(40))


async def test_interactive_pipes() -> None:
    child = await spawn(["cat"], stdin=PIPE, stdout=PIPE, stderr=NULL)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"ping\n")
    assert await child.stdout.readline() == b"ping\n"
    await child.stop()


async def test_identity_follows_a_process_to_its_end() -> None:
    child = await spawn(["sleep", "60"])
    who = identify(child.pid)
    assert who == child.process
    # The kernel shows no arguments for a moment after execve(2).
    async with asyncio.timeout(10):
        while not read_argv(child.pid):
            await asyncio.sleep(0.01)
    assert read_argv(child.pid) == ("sleep", "60")
    waiting = asyncio.create_task(watch_exit(who))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await child.stop()
    await asyncio.wait_for(waiting, 1)
    assert identify(child.pid) is None
    assert not is_alive(who)
    assert kill(who, signal.SIGTERM) is False
    await asyncio.wait_for(watch_exit(who), 1)


async def test_a_wrong_identity_is_never_signalled() -> None:
    child = await spawn(["sleep", "60"])
    true = child.process
    for impostor in (
        ProcessId(pid=true.pid, start_time_ticks=true.start_time_ticks - 1, boot_id=true.boot_id),
        ProcessId(pid=true.pid, start_time_ticks=true.start_time_ticks, boot_id="other"),
    ):
        assert not is_alive(impostor)
        assert kill(impostor, signal.SIGKILL) is False
    assert is_alive(true)
    await child.stop()


async def test_a_process_that_is_no_child_is_watched_and_ended() -> None:
    # The middle shell ends at once, so that its background job is nobody's child here.
    done = await run(["sh", "-c", f"exec >/dev/null 2>&1; sleep {NAP} & exit 0"])
    assert done.status == 0
    (found,) = await sleepers()
    watching = asyncio.create_task(watch_exit(found.process))
    await end(found.process, grace=2)
    await asyncio.wait_for(watching, 1)
    assert not is_alive(found.process)
    await end(found.process)


def test_a_jail_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="give ids above 0"):
        Jail(uid=0, gid=5)
    with pytest.raises(InputError, match="joins no namespace: leave out /run/netns/x"):
        Jail(uid=7, gid=8, files=Files(), netns=Path("/run/netns/x"))
    with pytest.raises(InputError, match="has no device: leave out /dev/kvm"):
        Jail(uid=7, gid=8, device=(Path("/dev/kvm"), Path("/dev/null")))


def test_the_prefix_of_a_jail() -> None:
    assert Jail(uid=7, gid=8, pdeathsig="KILL").prefix() == [
        "unshare", "--net", "--",
        "setpriv", "--reuid=7", "--regid=8", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--pdeathsig=KILL", "--",
    ]  # fmt: skip
    inside = Jail(uid=7, gid=8, groups=(9, 10), netns=Path("/run/netns/x")).prefix()
    assert inside[:3] == ["nsenter", "--net=/run/netns/x", "--"]
    assert "--groups=9,10" in inside
    limits = Limits(memory=1 << 30, cpu=2, file_size=3, open_files=4)
    bounded = [
        *("prlimit", "--as=1073741824", "--cpu=2", "--fsize=3", "--nofile=4", "--core=0", "--"),
    ]
    plain = Jail(uid=7, gid=8)
    assert replace(plain, limits=limits).prefix() == bounded + plain.prefix()
    inner = replace(plain, files=Files())
    assert replace(inner, limits=limits).prefix() == bounded + inner.prefix()
    assert inner.prefix() == plain.prefix()[3:]  # its namespace is that of the thread
