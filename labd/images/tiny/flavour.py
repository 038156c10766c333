"""The guests that are built like `tiny`: what each has besides, and how that is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One guest.

    Attributes:
        name: Of the recipe.
        packages: Debian packages that are taken apart for it.
        programs: Files that are taken from them, with the libraries that they load.
        modules: Kernel modules that are there for `modprobe`.
        accounts: Name -> user and group id of further system users.
        groups: Name -> id of further groups.
        files: Path in the guest -> text of further files.
        late: Shell script that is run at boot when the network is there, before the node's own
            commands; its name in the package, empty for none.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    modules: tuple[str, ...] = ()
    accounts: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    late: str = ""


TINY: Final = Flavour(
    name="tiny",
    packages=(
        "busybox-static",
        "dropbear-bin",
        "openssh-sftp-server",
        "qemu-guest-agent",
        "iperf3",
        "tcpdump",
        "nftables",
    ),
    programs=(
        "usr/sbin/dropbear",
        "usr/bin/dropbearkey",
        "usr/bin/dbclient",
        "usr/lib/sftp-server",  # where dropbear looks for it; scp and sftp need it
        "usr/sbin/qemu-ga",
        "usr/bin/iperf3",
        "usr/bin/tcpdump",
        "usr/sbin/nft",
    ),
)
_PAM_ROOTOK = "usr/lib/x86_64-linux-gnu/security/pam_rootok.so"
_ROUTING = ("zebra", "staticd", "ospfd", "ospf6d", "bgpd", "ripd", "isisd", "bfdd")
ROUTER: Final = Flavour(
    name="router",
    packages=(*TINY.packages, "frr", "libpam-modules"),
    programs=(
        *TINY.programs,
        "usr/bin/vtysh",
        *(f"usr/lib/frr/{name}" for name in _ROUTING),
        _PAM_ROOTOK,
    ),
    # As Debian's package makes them; FRR's daemons look for them by name.
    accounts={"frr": 102},
    groups={"frrvty": 103},
    # vtysh asks PAM, as Debian builds it.
    files={
        "etc/pam.d/frr": "".join(
            f"{kind} sufficient /{_PAM_ROOTOK}\n" for kind in ("auth", "account")
        )
    },
    late="frr.sh",
)
FLAVOURS: Final[Mapping[str, Flavour]] = {flavour.name: flavour for flavour in (TINY, ROUTER)}
