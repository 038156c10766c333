"""Names of namespaces, interfaces and tables. Pure.

They follow from names and keys alone, so that an edit of a template renames nothing that stays, and
so that what a daemon left that died can be found.
"""

from __future__ import annotations

import hashlib
from typing import Final

_IFNAMSIZ = 15  # characters, linux/if.h less the final zero


def namespace_name(root_id: str, lab_key: str) -> str:
    """Return the name of a lab's namespace under `/run/netns`."""
    return f"labd-{root_id}-{lab_key}"


def bridge_name(network: str) -> str:
    """Return the interface name of a network's bridge: its own name where that is short enough."""
    plain = f"br-{network}"
    if len(plain) <= _IFNAMSIZ:
        return plain
    return f"br-{network[:5]}-{hashlib.sha256(network.encode()).hexdigest()[:6]}"


# The lab's end of its way out, inside its namespace.
WAY_OUT: Final = "way-out"


def table_name(namespace: str) -> str:
    """Return the name of a lab's nftables table on the host; of a prefix: of its tables."""
    return namespace.replace("-", "_")


def link_name(namespace: str) -> str:
    """Return the interface name of the host's end of a lab's way out: 15 characters in all."""
    _, root_id, lab_key = namespace.split("-", 2)
    plain = f"v{root_id}{lab_key}"
    return plain if len(plain) <= _IFNAMSIZ else f"v{_digest(namespace)}"


def mapped_names(namespace: str, network: str) -> tuple[str, str, str]:
    """Return the interface names of a mapped network: outer, inner and tagged."""
    digest = _digest(f"{namespace}/{network}")
    return f"u{digest}", f"i{digest}", f"g{digest}"


def lab_mark(namespace: str) -> str:
    """Return the alias of a lab's interfaces on the host."""
    return namespace.replace("-", ":", 2)


def link_group(root_id: str) -> int:
    """Return the group that a root's interfaces on the host are made in.

    The kernel takes a group with the very message that makes an interface, an alias only later: so
    one whose maker died in between is told from a stranger's of the same name. It is never 0, which
    is the group of everybody's.
    """
    return int(hashlib.sha256(f"labd:{root_id}".encode()).hexdigest()[:8], 16) | 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: _IFNAMSIZ - 1]
