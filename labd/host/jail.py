"""What a child process is denied, mostly as a plain prefix of its command line.

util-linux's `unshare`, `nsenter`, `prlimit` and `setpriv` do the work and then exec the program, so
that the pid is the program's own and Python needs no `preexec_fn` (which would cost vfork and is
not safe beside threads). What no tool of Debian 12 can do, Landlock, is done by a thread of its own
that then spawns: its domain and its namespaces are those of its children. The user id is dropped
before exec because QEMU's own `-runas` dies under its seccomp sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.host import landlock
from labd.host.landlock import Files
from labd.host.libc import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    LIBC,
    MS_BIND,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    mount,
    why,
)
from labd.model.errors import CommandFailed, InputError

# What the tools and programs of the host need to start: themselves, their libraries and their data.
PROGRAMS: Final = (Path("/usr"), Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib64"))
LOOKED_AT: Final = (
    Path("/etc/ld.so.cache"),
    Path("/etc/localtime"),
    Path("/proc/sys/kernel/cap_last_cap"),
    Path("/sys/devices/system/cpu"),
    Path("/sys/devices/system/node"),
    Path("/dev/urandom"),
)
WRITTEN_TO: Final = (Path("/dev/null"),)  # which their standard input is, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that the kernel holds a process to (getrlimit(2)).

    Attributes:
        memory: Bytes of address space.
        cpu: Seconds of CPU time, after which it is killed.
        file_size: Bytes of the largest file that it may write.
        open_files: Descriptors.
    """

    memory: int
    cpu: int
    file_size: int
    open_files: int

    def prefix(self) -> list[str]:
        """Return the argv to put before another's."""
        return [
            *("prlimit", f"--as={self.memory}", f"--cpu={self.cpu}", f"--fsize={self.file_size}"),
            *(f"--nofile={self.open_files}", "--core=0", "--"),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """An unprivileged identity with no way back: no capabilities, no-new-privs.

    Attributes:
        uid: Real, effective and saved user id. Not 0.
        gid: Real, effective and saved group id. Not 0.
        groups: Supplementary group ids; none by default.
        new_netns: Give the process an empty network namespace of its own (its loopback is down).
        netns: Join this one instead, such as `/run/netns/NAME`. Not together with `files`.
        pdeathsig: Signal name without SIG, such as `KILL`, that the kernel sends to the process
            when the thread that spawned it ends (PR_SET_PDEATHSIG, prctl(2)); empty for none, which
            lets it outlive labd.
        keep_caps: Capabilities that stay, such as `net_bind_service`; they survive the change of
            user as ambient capabilities (capabilities(7)).
        files: The only files that it may open by a path; None: those that its user may.
        device: A device node, and where it alone sees that node, in a private mount namespace.
            Needs `files`.
        limits: Bounds on what it uses.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    new_netns: bool = True
    netns: Path | None = None
    pdeathsig: str = ""
    keep_caps: tuple[str, ...] = ()
    files: Files | None = None
    device: tuple[Path, Path] | None = None
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.uid <= 0 or self.gid <= 0:
            raise InputError(f"a jail as uid {self.uid}, gid {self.gid} is none: give ids above 0")
        if self.netns is not None and self.files is not None:
            raise InputError(f"a jail with files joins no namespace: leave out {self.netns}")
        if self.device is not None and self.files is None:
            raise InputError(f"a jail without files has no device: leave out {self.device[0]}")

    def prefix(self) -> list[str]:
        """Return the argv to put before the program's own."""
        argv = self.limits.prefix() if self.limits is not None else []
        if self.netns is not None:
            argv += ["nsenter", f"--net={self.netns}", "--"]
        elif self.new_netns and self.files is None:  # else its thread makes one: see `enter`
            argv += ["unshare", "--net", "--"]
        kept = ",".join(["-all", *(f"+{cap}" for cap in self.keep_caps)])
        argv += ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}"]
        argv += [f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"]
        # Ambient last: the kernel wants a capability permitted and inheritable first.
        argv += ["--no-new-privs", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
        argv += [f"--bounding-set={kept}"]
        if self.pdeathsig:
            argv += [f"--pdeathsig={self.pdeathsig}"]
        return [*argv, "--"]

    def enter(self) -> None:
        """Put this thread, and so the process that it starts, where a prefix can't: see `files`.

        Whatever must be mounted comes first, for Landlock forbids it after.

        Raises:
            CommandFailed: The kernel refuses. The thread is of no use for anything else.
        """
        assert self.files is not None  # noqa: S101 - only such jails are entered
        if self.device is not None:
            _mount_alone(*self.device)
        if self.new_netns:
            _call("make a network namespace", LIBC.unshare(CLONE_NEWNET))
        landlock.restrict(self.files)


def _mount_alone(node: Path, target: Path) -> None:
    _call("make a mount namespace", LIBC.unshare(CLONE_NEWNS))
    # Slave: what the host unmounts later goes here too, and is not kept busy.
    _call("part from the host's mounts", mount(None, Path("/"), MS_SLAVE | MS_REC))
    _call(f"show {node} as {target}", mount(node, target, MS_BIND))
    flags = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NOEXEC
    _call(f"show {node} as {target}", mount(None, target, flags))


def _call(what: str, result: int) -> None:
    if result != 0:
        number, text = why()
        raise CommandFailed(f"cannot {what}: {text}; see `lab doctor`", errno=number)
