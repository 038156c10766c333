"""Real processes that do not end when they are killed, for tests.

The first process of a pid namespace ends only when all others of the namespace have been reaped,
and one that is traced is reaped by its tracer. So a tracer that waits for nobody keeps it, killed,
in the kernel for as long as it likes: to its killer that is what state D looks like.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from labd.host.identity import identify, kill, watch_exit
from labd.model.process import ProcessId

# Prints the pid of what cannot be killed, and traces its child until standard input is closed.
_TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWPID, PTRACE_SEIZE = 0x10000000, 0x20000000, 0x4206
if libc.unshare(CLONE_NEWPID | (CLONE_NEWUSER if os.geteuid() else 0)):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
ready, tell = os.pipe()
first = os.fork()
if not first:
    child = os.fork()
    if not child:
        os.write(tell, b"x")
    while True:
        time.sleep(1000)
os.read(ready, 1)
child = int(open(f"/proc/{first}/task/{first}/children").read().split()[0])
if libc.ptrace(PTRACE_SEIZE, child, None, None):
    sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
print(first, flush=True)
sys.stdin.read()
"""

# Ends its first thread, and goes on in another.
_LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print("up", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit(2): of this thread alone
"""


@asynccontextmanager
async def unkillable() -> AsyncIterator[tuple[ProcessId, asyncio.Event]]:
    """Give a process that ends only after it was killed *and* the event was set."""
    tracer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TRACER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert tracer.stdout is not None
    assert tracer.stdin is not None
    line = await tracer.stdout.readline()
    assert line, "the tracer did not come up: are there namespaces of users?"
    process = identify(int(line))
    assert process is not None
    let_go = asyncio.Event()

    async def release() -> None:
        await let_go.wait()
        tracer.stdin.close()  # type: ignore[union-attr]
        await tracer.wait()

    releasing = asyncio.create_task(release())
    try:
        yield process, let_go
    finally:
        let_go.set()
        await releasing
        kill(process, signal.SIGKILL)
        await watch_exit(process)


@asynccontextmanager
async def leaderless() -> AsyncIterator[asyncio.subprocess.Process]:
    """Give a process whose first thread has ended and that goes on."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LEADERLESS, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    try:
        yield child
    finally:
        child.kill()
        await child.wait()
