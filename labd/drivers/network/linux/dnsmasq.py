"""One lab's dnsmasq: its files, its process, and its log.

The process outlives the daemon, as QEMU does. A later daemon knows it by its argv, which names the
lab's folder and, by a digest, the configuration that it read; by its user; and by the namespace
that it is in. So there is no record of it that could be wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.drivers.network.linux import netns
from labd.host import identity
from labd.host.failpoints import failpoints
from labd.host.spawn import Child, Jail, spawn
from labd.model.errors import NetworkFailed, StorageFailed
from labd.model.process import ProcessId
from labd.model.serving import ServerPlan

LEASES: Final = "leases/leases"  # dnsmasq writes it, so it has a folder of its own
LOG: Final = "log"
_CONFIG = re.compile(r"--conf-file=(?P<folder>.+)/(?P<digest>[0-9a-f]{16})\.conf")
_LOG_LIMIT = 64 << 10  # bytes, kept twice at most
_READY = 10.0  # seconds until it serves
_STARTED = b"started, "
_GRACE = 2.0  # seconds to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A dnsmasq that runs; `digest` is of the configuration that it read."""

    process: ProcessId
    folder: Path
    digest: str


def digest_of(plan: ServerPlan) -> str:
    """Return what names a configuration file."""
    return hashlib.sha256(plan.config.encode()).hexdigest()[:16]


def argv(folder: Path, plan: ServerPlan) -> list[str]:
    """Return dnsmasq's command line. Pure; see dnsmasq(8)."""
    command = [
        "dnsmasq",
        f"--conf-file={folder}/{digest_of(plan)}.conf",
        f"--addn-hosts={folder}/hosts",
        "--pid-file=",
    ]
    if plan.dhcp:
        command += [
            f"--dhcp-hostsfile={folder}/clients",
            f"--dhcp-optsfile={folder}/options",
            f"--dhcp-leasefile={folder}/{LEASES}",
        ]
    return command


def capabilities(plan: ServerPlan) -> tuple[str, ...]:
    """Return what it needs of the kernel, inside the lab's namespace.

    Ports below 1024; for DHCP an entry in the neighbour table of a client that has no address yet;
    for router advertisements a raw socket.
    """
    found = ["net_bind_service"]
    if plan.dhcp:
        found.append("net_admin")
    if plan.ipv6:
        found.append("net_raw")
    return tuple(found)


def scan(root: Path, uid: int) -> list[Found]:
    """Return every dnsmasq with a folder below `root`, of the given user. Blocks: use a thread."""
    mark = f"--conf-file={root}/"

    def ours(argv: Sequence[str]) -> bool:
        return any(word.startswith(mark) for word in argv)

    found = []
    for item in identity.scan(ours):
        with suppress(OSError):
            # Root's is one of ours that has not dropped its rights yet.
            if os.stat(f"/proc/{item.process.pid}").st_uid not in {0, uid}:
                continue
            word = next(word for word in item.argv if word.startswith(mark))
            if match := _CONFIG.fullmatch(word):
                folder, digest = Path(match["folder"]), match["digest"]
                found.append(Found(process=item.process, folder=folder, digest=digest))
    return found


def is_inside(process: ProcessId, namespace: str) -> bool:
    """True if a process is in a namespace."""
    with suppress(OSError):
        theirs = os.stat(f"/proc/{process.pid}/ns/net")
        ours = os.stat(netns.FOLDER / namespace)
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return False


def write_files(folder: Path, plan: ServerPlan, uid: int) -> bool:
    """Write what a plan says; tell whether a running dnsmasq would have to read it again. Blocks.

    Raises:
        StorageFailed: A file cannot be written.
    """
    changed = False
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        own = folder / "leases"
        own.mkdir(mode=0o700, exist_ok=True)
        os.chown(own, uid, uid)
        texts = {"hosts": plan.hosts, "clients": plan.clients, "options": plan.options}
        for name, text in {f"{digest_of(plan)}.conf": plan.config, **texts}.items():
            path = folder / name
            with suppress(FileNotFoundError):
                if path.read_text() == text:
                    continue
            changed = True
            fresh = folder / f"{name}.new"
            fresh.write_text(text)
            fresh.chmod(0o644)
            fresh.replace(path)
    except OSError as error:
        raise StorageFailed(f"cannot write {folder}: {error.strerror}") from error
    return changed


def remove_files(folder: Path) -> None:
    """Remove all of a lab's files (idempotent). Blocks."""
    shutil.rmtree(folder, ignore_errors=True)


def drop_old_configs(folder: Path, plan: ServerPlan) -> None:
    """Remove configurations that no process reads any more. Blocks."""
    for path in folder.glob("*.conf"):
        if path.name != f"{digest_of(plan)}.conf":
            path.unlink(missing_ok=True)


async def start(namespace: str, folder: Path, plan: ServerPlan, uid: int) -> Child:
    """Start dnsmasq and return when it serves; its files are there.

    Raises:
        NetworkFailed: It ended; with its last words. No process is left.
        CommandFailed: It is not installed.
    """
    jail = Jail(uid=uid, gid=uid, netns=netns.FOLDER / namespace, keep_caps=capabilities(plan))
    log = os.open(
        folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        child = await spawn(argv(folder, plan), stdout=log, stderr=log, jail=jail, umask=0o077)
    finally:
        os.close(log)
    try:
        await failpoints.reach("dnsmasq.spawned")
        await _await_ready(child, folder)
    except BaseException:
        await child.stop(grace=0)
        raise
    return child


async def _await_ready(child: Child, folder: Path) -> None:
    # It says so after all sockets are bound and all files are read.
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY):
            while child.status is None:
                if _STARTED in (folder / LOG).read_bytes():
                    return
                await asyncio.sleep(0.01)
    raise NetworkFailed(
        f"dnsmasq did not start (status {child.status}): {last_words(folder) or 'it said nothing'}"
    )


def reload(process: ProcessId) -> None:
    """Have it read hosts, clients and options again."""
    identity.kill(process, signal.SIGHUP)


async def end(process: ProcessId) -> None:
    """End it and wait until it is gone; no error when it has ended."""
    await identity.end(process, grace=_GRACE)


def last_words(folder: Path, limit: int = 500) -> str:
    """Return the end of what it said, as one line."""
    try:
        text = (folder / LOG).read_bytes()[-limit:].decode(errors="replace")
    except OSError:
        return ""
    return "; ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())


def bound_log(folder: Path) -> None:
    """Keep its log small: when large, its end becomes `log.1`. It appends, so that is safe."""
    path = folder / LOG
    with suppress(OSError):
        if path.stat().st_size <= _LOG_LIMIT:
            return
        with path.open("rb") as file:
            file.seek(-_LOG_LIMIT, os.SEEK_END)
            (folder / f"{LOG}.1").write_bytes(file.read(_LOG_LIMIT))
        os.truncate(path, 0)
