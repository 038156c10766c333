"""The bare script that forks are measured against: the same arguments and QMP commands, no labd.

It takes the command line of a fork that labd has started, and starts it again N times, each with
descriptors of its own: sockets, a tap, the frozen memory and the frozen state.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.bare import taps

_SOCKETS = ("qmp", "people", "serial", "agent")


def running(pid: int, state: Path, count: int) -> float:
    """Return seconds until `count` copies of the fork with this pid run."""
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    return asyncio.run(_measure(argv, pid, state, count))


async def _measure(argv: list[str], pid: int, state: Path, count: int) -> float:
    namespace = f"bare-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="bare-") as name:
        began = time.monotonic()
        lines = taps(namespace, count)
        processes: list[asyncio.subprocess.Process] = []
        try:

            async def one(index: int) -> None:
                folder = Path(name) / str(index)
                folder.mkdir()
                processes.append(await _launch(argv, pid, state, folder, lines[index]))
                await _let_go(folder)

            await asyncio.gather(*(one(index) for index in range(count)))
            end = time.monotonic()
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*(process.wait() for process in processes))
            subprocess.run(["ip", "netns", "del", namespace], check=True)
    return end - began


async def _launch(
    argv: list[str], pid: int, state: Path, folder: Path, tap: int
) -> asyncio.subprocess.Process:
    """Start one copy, its CPUs stopped, with every descriptor replaced."""
    fds: list[int] = []
    sockets: list[socket.socket] = []
    words = []

    def again(match: re.Match[str]) -> str:
        fds.append(os.open(f"/proc/{pid}/fd/{match[1]}", os.O_RDONLY))
        os.set_inheritable(fds[-1], True)
        return f"/proc/self/fd/{fds[-1]}"

    for word in argv:
        if word == "-add-fd" or word.startswith("fd="):
            continue  # of labd's own memory of the serial line
        if word.startswith("socket,id="):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(folder / _SOCKETS[len(sockets)]))
            listener.listen(1)
            sockets.append(listener)
            plain = word.partition(",logfile=")[0]
            words.append(re.sub(r"fd=\d+", f"fd={listener.fileno()}", plain))
        elif re.fullmatch(r"fd:\d+", word):
            fds.append(os.open(state, os.O_RDONLY))
            words.append(f"fd:{fds[-1]}")
        elif word.startswith('{"type":"tap"'):
            words.append(re.sub(r'"fd":"\d+"', f'"fd":"{tap}"', word))
        else:
            words.append(re.sub(r"/proc/self/fd/(\d+)", again, word))
    passed = [*fds, *(item.fileno() for item in sockets), tap]
    process = await asyncio.create_subprocess_exec(
        *words, pass_fds=passed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for item in sockets:
        item.close()
    for fd in (*fds, tap):
        os.close(fd)
    return process


async def _let_go(folder: Path) -> None:
    """Wait until the state is loaded, let the CPUs run, and see that they do."""
    reader, writer = await asyncio.open_unix_connection(folder / "qmp")
    await reader.readline()

    async def ask(command: str) -> str:
        writer.write(json.dumps({"execute": command}).encode())
        while "return" not in (answer := json.loads(await reader.readline())):
            if "error" in answer:
                raise AssertionError(f"{command}: {answer}")
        return str(answer["return"].get("status", ""))

    await ask("qmp_capabilities")
    while True:
        if await ask("query-status") not in {"inmigrate", "prelaunch"}:
            break
        await asyncio.sleep(0.005)
    await ask("cont")
    if await ask("query-status") != "running":
        raise AssertionError("a copy does not run")
    writer.close()
