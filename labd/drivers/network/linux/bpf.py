"""Capture filters, compiled by tcpdump's libpcap.

In a process of its own: a parser of anybody's text, so it runs as nobody, and in an empty network
namespace, where it can ask no name server either.
"""

from __future__ import annotations

import re
from typing import Final

from labd.drivers.network.linux.packets import Instruction
from labd.host.commands import run
from labd.host.spawn import Jail
from labd.model.errors import CommandFailed, InputError

_NOBODY: Final = 65534
MAX_LENGTH: Final = 2000  # characters
_DEADLINE = 10.0  # seconds
# The kernel takes the tag off before a filter sees the frame.
_VLAN = re.compile(r"\bvlan\b")


async def compile_filter(text: str) -> list[Instruction]:
    """Return the program of a filter; nothing for an empty one.

    Raises:
        InputError: It is no filter; tells what libpcap says.
        CommandFailed: There is no tcpdump.
    """
    if not text.strip():
        return []
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise InputError(f"a filter is one line of at most {MAX_LENGTH} characters")
    if _VLAN.search(text):
        raise InputError(
            "filter 'vlan' finds nothing here, for the kernel takes tags off before; capture "
            "without it, and look with `tshark -Y vlan`"
        )
    jail = Jail(uid=_NOBODY, gid=_NOBODY, pdeathsig="KILL")
    argv = ["tcpdump", "-ddd", "-y", "EN10MB", "--", text]
    try:
        done = await run(argv, timeout=_DEADLINE, check=False, jail=jail)
    except CommandFailed as error:
        raise CommandFailed(
            f"filters need tcpdump: {error.message}; capture without --filter", **error.details
        ) from error
    if done.status:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = lines[-1].removeprefix("tcpdump: ") if lines else "it is too long"
        if done.status == 127 or "failed to execute" in said:  # setpriv found no program
            raise CommandFailed("filters need tcpdump; install the package tcpdump")
        raise InputError(f"filter {text[:80]!r}: {said}; see pcap-filter(7)")
    numbers = [line.split() for line in done.stdout.decode().splitlines()[1:]]
    return [(int(code), int(jt), int(jf), int(k)) for code, jt, jf, k in numbers]
