"""What a running QEMU may have, read from `/proc`; held against each one that a test leaves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# Descriptors by what they lead to, besides its own files and those that all read (`_may_have`).
_ALLOWED = re.compile(
    r"socket:\[\d+\]|pipe:\[\d+\]|anon_inode:\[?(?:eventfd|eventpoll|signalfd|io_uring|kvm-[a-z-:0-9]+)"
    r"\]?|/dev/null|/dev/urandom|/dev/net/tun|/dev/kvm|/memfd:.* \(deleted\)"
    r"|/usr/share/(?:OVMF|qemu|seabios)/.*"
)

_KEY = re.compile(rb"-name\0guest=[^\0]*@[0-9a-f]+\.([a-z0-9]+)[,\0]")
_FLAGS = re.compile(r"^flags:\s+([0-7]+)$", re.MULTILINE)


def troubles(pids: Iterable[int], root: Path) -> list[str]:
    """Return what is wrong with the rights of some QEMUs of one root; one may end meanwhile."""
    found: list[str] = []
    owners: dict[str, int] = {}
    for pid in pids:
        try:
            found += [f"QEMU {pid}: {text}" for text in _of(pid, root, owners)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def lasting(list_pids: Callable[[], Iterable[int]], root: Path) -> list[str]:
    """Return the troubles that last: one that is just starting has its filter in a moment."""
    found = troubles(list_pids(), root)
    if found:
        time.sleep(2)
        again = troubles(list_pids(), root)
        found = [text for text in found if text in again]
    return found


def _of(pid: int, root: Path, owners: dict[str, int]) -> list[str]:
    proc = Path(f"/proc/{pid}")
    status = dict(
        line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line
    )
    wrong = []
    uids, gids = set(status["Uid"].split()), set(status["Gid"].split())
    if len(uids | gids) != 1 or "0" in uids:
        wrong.append(f"user {uids}, group {gids}")
    other = owners.setdefault(min(uids), pid)
    if other != pid:
        wrong.append(f"shares its user {uids} with QEMU {other}")
    wrong += [
        f"{name} is {status[name]}"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        if int(status[name], 16) != 0
    ]
    if (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) != ("1", "2"):
        wrong.append(f"NoNewPrivs {status['NoNewPrivs']}, Seccomp {status['Seccomp']}")
    interfaces = (proc / "net" / "dev").read_text().splitlines()[2:]
    if [line.split(":")[0].strip() for line in interfaces] != ["lo"]:
        wrong.append(f"interfaces {interfaces}")
    if os.readlink(proc / "ns" / "net") == os.readlink("/proc/self/ns/net"):
        wrong.append("is in the host's network namespace")
    named = _KEY.search((proc / "cmdline").read_bytes())
    key = named[1].decode() if named else ""
    for entry in (proc / "fd").iterdir():
        try:
            target = os.readlink(entry)
            info = (proc / "fdinfo" / entry.name).read_text()
        except FileNotFoundError:  # closed meanwhile
            continue
        if not _ALLOWED.fullmatch(target) and not _may_have(target, root, key, info):
            wrong.append(f"descriptor {entry.name} leads to {target}")
    return wrong


def _may_have(target: str, root: Path, key: str, info: str) -> bool:
    """Tell whether a QEMU may have a descriptor of a file of labd's, in the mode that it has."""
    mode = int(_FLAGS.findall(info)[0], 8) & os.O_ACCMODE
    if target.startswith((f"{root}/lib/images/", f"{root}/lib/checkpoints/")):
        return mode == os.O_RDONLY
    own = (f"{root}/lib/nodes/{key}/", f"{root}/run/n/{key}/qemu.log")
    return bool(key) and target.startswith(own)
