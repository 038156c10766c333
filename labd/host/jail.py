"""What a child process is denied, as a plain prefix of its command line.

util-linux's `unshare`, `nsenter` and `setpriv` do the work and then exec the program, so that the
pid is the program's own and Python needs no `preexec_fn` (which would cost vfork and is not safe
beside threads). The user id is dropped before exec because QEMU's own `-runas` dies under its
seccomp sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labd.model.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """An unprivileged identity with no way back: no capabilities, no-new-privs.

    Attributes:
        uid: Real, effective and saved user id. Not 0.
        gid: Real, effective and saved group id. Not 0.
        groups: Supplementary group ids; none by default.
        new_netns: Give the process an empty network namespace of its own (its loopback is down).
        netns: Join this one instead, such as `/run/netns/NAME`.
        pdeathsig: Signal name without SIG, such as `KILL`, that the kernel sends to the process
            when the thread that spawned it ends (PR_SET_PDEATHSIG, prctl(2)); empty for none, which
            lets it outlive labd.
        keep_caps: Capabilities that stay, such as `net_bind_service`; they survive the change of
            user as ambient capabilities (capabilities(7)).
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    new_netns: bool = True
    netns: Path | None = None
    pdeathsig: str = ""
    keep_caps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.uid <= 0 or self.gid <= 0:
            raise InputError(f"a jail as uid {self.uid}, gid {self.gid} is none: give ids above 0")

    def prefix(self) -> list[str]:
        """Return the argv to put before the program's own."""
        argv: list[str] = []
        if self.netns is not None:
            argv += ["nsenter", f"--net={self.netns}", "--"]
        elif self.new_netns:
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
