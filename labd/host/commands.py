"""Short commands, run to their end.

done = await run(["qemu-img", "create", ...], timeout=10)
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labd.host.jail import Jail
from labd.host.spawn import NULL, PIPE, Child, spawn
from labd.model.errors import CommandFailed

_TAIL = 2000  # characters of stderr that an error carries


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """End of a short command. `status` is negative for a signal, as in `subprocess`."""

    status: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str],
    *,
    input: bytes = b"",
    timeout: float = 30.0,
    check: bool = True,
    max_output: int = 16 << 20,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    jail: Jail | None = None,
) -> Completed:
    """Run a short command to its end and return what it said.

    However this ends, also when cancelled, the command is gone; what it started goes with it when
    it is killed.

    Args:
        argv: As in `spawn`, and so are `env`, `cwd`, `pass_fds` and `jail`.
        input: What it reads from stdin.
        timeout: Seconds until it is killed.
        check: Raise when the exit status is not 0.
        max_output: Bytes of stdout, and of stderr, above which it is killed.

    Raises:
        CommandFailed: It could not be started, failed, took too long or said too much. The message
            ends with the last line of its stderr, `details["stderr"]` has the last lines.
    """
    child = await spawn(
        argv,
        stdin=PIPE if input else NULL,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
        jail=jail,
    )
    done, problem = await _outcome(child, input, timeout, max_output)
    if not problem and check and done.status != 0:
        problem = _ending(done.status)
    if problem:
        raise _failure(argv[0], problem, done)
    return done


async def _outcome(
    child: Child, input: bytes, timeout: float, max_output: int
) -> tuple[Completed, str]:
    """Feed and hear a command until it has ended; return what it said, and why it was killed."""
    stdout, stderr = bytearray(), bytearray()
    problem = ""
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
            tasks.create_task(_feed(child.stdin, input))
            tasks.create_task(_collect(child, child.stdout, stdout, max_output))
            tasks.create_task(_collect(child, child.stderr, stderr, max_output))
            tasks.create_task(child.wait())
    except TimeoutError:
        problem = f"did not end within {timeout:g} s and was killed"
    finally:
        child.kill_group()
        await child.stop(grace=0)
    done = Completed(status=await child.wait(), stdout=bytes(stdout), stderr=bytes(stderr))
    if max(len(stdout), len(stderr)) > max_output:
        problem = f"wrote more than {max_output} bytes and was killed"
    return done, problem


def _ending(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _failure(program: str, problem: str, done: Completed) -> CommandFailed:
    tail = done.stderr.decode(errors="replace").strip()[-_TAIL:]
    last = tail.splitlines()[-1] if tail else "it said nothing on stderr"
    return CommandFailed(
        f"{Path(program).name} {problem}: {last}",
        program=program,
        status=done.status,
        stderr=tail,
    )


async def _feed(writer: asyncio.StreamWriter | None, data: bytes) -> None:
    if writer is None:
        return
    # A program that closes its stdin early tells the rest by its exit status.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _collect(
    child: Child, reader: asyncio.StreamReader | None, into: bytearray, limit: int
) -> None:
    while reader is not None and (data := await reader.read(1 << 16)):
        into += data
        if len(into) > limit:
            child.kill_group()
            return
