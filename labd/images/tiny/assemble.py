"""Put the tiny guest together from a tree of extracted packages: kernel, modules, programs.

Pure but for reading that tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from labd.images.tiny import cpio, elf
from labd.images.tiny.flavour import Flavour
from labd.model.errors import StorageFailed

# Loaded at boot, in this order; what they need comes before them. What the kernel has built in, or
# does not have at all (`virtio-rng` on some, `evdev` on others), is left out.
BOOT_MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "qemu_fw_cfg",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "virtio_blk",
    "button",
    "evdev",
    "pvpanic-pci",
    "pvpanic-mmio",
    "virtio_balloon",
)
# There for `modprobe`, because a lab on networks asks for them.
SPARE_MODULES = (
    "8021q",
    "bridge",
    "dummy",
    "e1000",
    "e1000e",
    "8139cp",
    "isofs",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_numgen",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_reject_inet",
    "nf_log_syslog",
    "sch_netem",
    "sd_mod",
    "sr_mod",
    "ata_piix",
    "ahci",
    "tun",
    "virtio_scsi",
)
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib",
    "lib",
    "usr/lib/x86_64-linux-gnu/frr",
)
_PASSWD = b"""root:x:0:0:root:/root:/bin/sh
tcpdump:x:101:101:tcpdump:/:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUP = b"root:x:0:\ntcpdump:x:101:\nnogroup:x:65534:\n"
_INITTAB = b"""::sysinit:/etc/labd/boot
ttyS0::respawn:-/bin/sh
::ctrlaltdel:/bin/reboot
::shutdown:/bin/sync
"""
_PROFILE = rb"""export PATH=/bin:/usr/bin:/usr/sbin:/sbin HOME=/root
PS1='\h:\w\$ '
cd
"""
# The guest agent calls shutdown(8) with `-h -P +0` for power off, `-r` for reset.
_SHUTDOWN = b"""#!/bin/sh
case " $* " in
*" -r "*) exec reboot ;;
*) exec poweroff ;;
esac
"""


def kernel_release(tree: Path) -> str:
    """Return the release of the one kernel in the tree, such as `6.1.0-50-cloud-amd64`.

    Raises:
        StorageFailed: There is none, or more than one.
    """
    found = sorted(
        path.name for path in _modules_root(tree).glob("*") if (path / "kernel").exists()
    )
    if len(found) != 1:
        raise StorageFailed(
            f"the kernel package brought {len(found)} sets of modules where one was expected; "
            "report this with the output of `apt-cache policy linux-image-cloud-amd64`"
        )
    return found[0]


def kernel_file(tree: Path) -> Path:
    """Return the path of the kernel itself."""
    return tree / "boot" / f"vmlinuz-{kernel_release(tree)}"


def _modules_root(tree: Path) -> Path:
    usr = tree / "usr/lib/modules"
    return usr if usr.exists() else tree / "lib/modules"


def module_dependencies(data: bytes) -> tuple[str, ...]:
    """Return the `depends=` of a module's .modinfo section (names, without `.ko`)."""
    found = re.search(rb"\0depends=([^\0]*)\0", data)
    return tuple(found[1].decode().split(",")) if found and found[1] else ()


def module_aliases(data: bytes) -> tuple[str, ...]:
    """Return each `alias=` of a module's .modinfo section: what the kernel asks for it by."""
    return tuple(found.decode() for found in re.findall(rb"\0alias=([^\0]*)(?=\0)", data))


class Modules:
    """The kernel modules of a tree, by name."""

    def __init__(self, tree: Path) -> None:
        self.release = kernel_release(tree)
        self._root = _modules_root(tree) / self.release
        self._paths = {_canonical(path.stem): path for path in self._root.rglob("*.ko")}

    def __contains__(self, name: str) -> bool:
        return _canonical(name) in self._paths

    def closure(self, names: Iterable[str]) -> list[str]:
        """Return the canonical names of what must be loaded, dependencies first.

        A name that the kernel does not have as a module is left out.
        """
        ordered: dict[str, None] = {}

        def visit(name: str) -> None:
            if name not in self._paths or name in ordered:
                return
            for other in self.depends(name):
                visit(other)
            ordered[name] = None

        for name in names:
            visit(_canonical(name))
        return list(ordered)

    def depends(self, name: str) -> list[str]:
        """Return the canonical names of what this module directly needs as modules."""
        wanted = [_canonical(other) for other in module_dependencies(self.read(name))]
        return [other for other in wanted if other in self._paths]

    def read(self, name: str) -> bytes:
        """Return the module's bytes."""
        return self._paths[name].read_bytes()

    def path(self, name: str) -> str:
        """Return the module's path below `lib/modules/<release>`."""
        return str(self._paths[name].relative_to(self._root))


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def initramfs(tree: Path, applets: Sequence[str], flavour: Flavour) -> bytes:
    """Return the guest's whole file system as a cpio archive, not compressed.

    Unpacking costs an emulated CPU more than reading: see docs/images.md for the figures.

    Args:
        tree: Where the packages were extracted.
        applets: Names of busybox's applets.
        flavour: Which guest.

    Raises:
        StorageFailed: A program or library is missing in the packages.
    """
    entries = [
        *_skeleton(flavour),
        *(cpio.link(f"bin/{name}", "busybox") for name in applets if name != "busybox"),
        cpio.link("sbin/hwclock", "/bin/busybox"),  # qemu-ga sets no clock without it
        *_programs(tree, flavour.programs),
        *_modules(Modules(tree), flavour.modules),
    ]
    return cpio.archive(cpio.with_parents(entries))


def _skeleton(flavour: Flavour) -> Iterator[cpio.Entry]:
    for path in (
        "dev",
        "proc",
        "sys",
        "run",
        "var/log",
        "var/lib",
        "etc/dropbear",
        "mnt",
        "usr/bin",
        "var/tmp",
    ):
        yield cpio.folder(path)
    yield cpio.folder("root", 0o700)
    yield cpio.folder("root/.ssh", 0o700)
    yield cpio.folder("tmp", 0o1777)
    yield cpio.device("dev/console", 5, 1)
    yield cpio.device("dev/null", 1, 3, 0o666)
    yield cpio.link("init", "bin/busybox")
    yield cpio.link("sbin/init", "../bin/busybox")
    yield cpio.link("sbin/modprobe", "../bin/busybox")
    yield cpio.link("var/run", "../run")
    yield cpio.file("sbin/shutdown", _SHUTDOWN, 0o755)
    yield cpio.file("etc/passwd", _PASSWD + _accounts(flavour))
    yield cpio.file("etc/group", _GROUP + _groups(flavour))
    yield cpio.file("etc/shadow", b"root:*:::::::\n", 0o600)
    yield cpio.file("etc/shells", b"/bin/sh\n")
    yield cpio.file("etc/inittab", _INITTAB)
    yield cpio.file("etc/profile", _PROFILE)
    yield cpio.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nexec poweroff\n", 0o755)
    boot = resources.files("labd.images.tiny").joinpath("boot.sh").read_bytes()
    yield cpio.file("etc/labd/boot", boot, 0o755)
    dhcp = resources.files("labd.images.tiny").joinpath("dhcp.sh").read_bytes()
    yield cpio.file("etc/labd/dhcp", dhcp, 0o755)
    for path, text in flavour.files.items():
        yield cpio.file(path, text.encode())
    if flavour.late:
        late = resources.files("labd.images.tiny").joinpath(flavour.late).read_bytes()
        yield cpio.file("etc/labd/late", late, 0o755)


def _accounts(flavour: Flavour) -> bytes:
    lines = [
        f"{name}:x:{number}:{number}:{name}:/:/bin/false\n"
        for name, number in flavour.accounts.items()
    ]
    return "".join(lines).encode()


def _groups(flavour: Flavour) -> bytes:
    lines = [f"{name}:x:{number}:\n" for name, number in flavour.accounts.items()]
    # Each system user is in each further group: FRR's daemons share their sockets by one.
    users = ",".join(flavour.accounts)
    lines += [f"{name}:x:{number}:{users}\n" for name, number in flavour.groups.items()]
    return "".join(lines).encode()


def _programs(tree: Path, programs: Sequence[str]) -> Iterator[cpio.Entry]:
    yield cpio.file("bin/busybox", busybox(tree).read_bytes(), 0o755)
    done: set[str] = set()
    queue: list[str] = []
    for program in programs:
        folder, _, name = program.rpartition("/")
        # usrmerge has moved some; the guest has each where it is looked for.
        data = _find(tree, (folder, folder.removeprefix("usr/")), name).read_bytes()
        yield cpio.file(program, data, 0o755)
        queue += elf.needed(data)
    while queue:
        name = queue.pop()
        if name in done:
            continue
        done.add(name)
        if name.startswith("/"):  # the interpreter, by its absolute path
            found = _find(tree, (name[1:].rpartition("/")[0], *_LIBRARY_FOLDERS), Path(name).name)
            yield cpio.file(name[1:], found.read_bytes(), 0o755)
            continue
        library = _find(tree, _LIBRARY_FOLDERS, name).read_bytes()
        yield cpio.file(f"lib/x86_64-linux-gnu/{name}", library, 0o755)
        queue += elf.needed(library)


def busybox(tree: Path) -> Path:
    """Return the path of busybox; usrmerge has moved it in newer releases."""
    return _find(tree, ("bin", "usr/bin"), "busybox")


def _find(tree: Path, folders: Iterable[str], name: str) -> Path:
    for folder in folders:
        path = tree / folder / name
        if path.is_file():
            return path
    raise StorageFailed(
        f"the packages of the tiny guest have no {name}; their contents have changed: report this "
        "with the name of your distribution"
    )


def _modules(modules: Modules, more: Sequence[str]) -> Iterator[cpio.Entry]:
    root = f"lib/modules/{modules.release}"
    boot = modules.closure(BOOT_MODULES)
    every = modules.closure([*BOOT_MODULES, *SPARE_MODULES, *more])
    for name in every:
        yield cpio.file(f"{root}/{modules.path(name)}", modules.read(name))
    # modules.dep as depmod(8) writes it: each with all it needs, nearest first.
    lines = []
    for name in every:
        needs = [other for other in reversed(modules.closure([name])) if other != name]
        lines.append(f"{modules.path(name)}: {' '.join(map(modules.path, needs))}".rstrip() + "\n")
    yield cpio.file(f"{root}/modules.dep", "".join(lines).encode())
    # The kernel itself asks modprobe for the parts of nftables, as rules need them, by alias.
    aliases = [
        f"alias {alias} {name}\n"
        for name in every
        if name.startswith(("nf", "nft"))
        for alias in module_aliases(modules.read(name))
    ]
    yield cpio.file(f"{root}/modules.alias", "".join(aliases).encode())
    boot_list = "".join(f"/{root}/{modules.path(name)}\n" for name in boot)
    yield cpio.file("etc/labd/modules", boot_list.encode())
