"""The tools of the tiny recipe: archive, dependencies, package lists, boot script."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from labd.host.commands import run
from labd.images.tiny import assemble, cpio, elf, packages
from labd.model.errors import StorageFailed

SHOWN = """\
Package: qemu-guest-agent
Version: 1:7.2+dfsg-7
Architecture: amd64
Depends: libc6 (>= 2.34), libglib2.0-0 | libglib2.0-0t64 (>= 2.63.3), python3:any
Pre-Depends: init-system-helpers (>= 1.54~)
Description: text
 Depends: on nothing
SHA256: aa

Package: qemu-guest-agent
Version: 0.1
Architecture: amd64
SHA256: bb

Package: virtual-thing
"""


def test_packages_are_read() -> None:
    found = packages.parse_packages(SHOWN)
    assert list(found) == ["qemu-guest-agent"]
    package = found["qemu-guest-agent"]
    assert package.version == "1:7.2+dfsg-7"
    assert package.depends == ("init-system-helpers", "libc6", "libglib2.0-0", "python3")
    assert package.file_name == "qemu-guest-agent_1%3a7.2+dfsg-7_amd64.deb"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("libc6", True),
        ("libglib2.0-0", True),
        ("libglib2.0-0t64", True),
        ("zlib1g", True),
        ("libpcap0.8", True),
        ("perl-base", False),
        ("init-system-helpers", False),
        ("debconf", False),
        ("libtext-glob-perl", False),
        ("adduser", False),
    ],
)
def test_only_libraries_are_followed(name: str, expected: bool) -> None:
    assert packages.is_library(name) is expected


async def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    entries = cpio.with_parents(
        [
            cpio.file("etc/deep/name", b"four", 0o640),
            cpio.file("etc/odd", b"x"),
            cpio.link("bin/sh", "busybox"),
            cpio.device("dev/console", 5, 1),
            cpio.folder("root", 0o700),
        ]
    )
    data = cpio.archive(entries)
    assert data == cpio.archive(entries)
    assert len(data) % 4 == 0
    listed = (await run(["cpio", "--list", "--quiet"], input=data)).stdout.decode().split()
    assert listed == [
        *("etc", "etc/deep", "etc/deep/name", "etc/odd"),
        *("bin", "bin/sh", "dev", "dev/console", "root"),
    ]
    wanted = ["etc/deep/name", "bin/sh", "root"]
    await run(["cpio", "--extract", "--quiet", "-d", *wanted], input=data, cwd=tmp_path)
    assert (tmp_path / "etc/deep/name").read_bytes() == b"four"
    assert stat.S_IMODE((tmp_path / "etc/deep/name").stat().st_mode) == 0o640
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")


async def test_needed_libraries_are_those_that_the_linker_loads() -> None:
    program = Path("/bin/ls").resolve()
    names = elf.needed(program.read_bytes())
    assert "libc.so.6" in names
    assert names[-1] == "/lib64/ld-linux-x86-64.so.2"
    # On a merged /usr, ldd tells the same of the first level and more of the deeper ones.
    loaded = (await run(["ldd", str(program)])).stdout.decode()
    assert all(name in loaded for name in names)


def test_what_is_no_program_needs_nothing() -> None:
    assert elf.needed(b"#!/bin/sh\n") == ()


@pytest.mark.parametrize("length", [10, 64, 100, 1000])
def test_a_damaged_program_is_told(length: int) -> None:
    with pytest.raises(StorageFailed, match="empty the cache folder and build again"):
        elf.needed(Path("/bin/ls").resolve().read_bytes()[:length])


def test_module_dependencies() -> None:
    assert assemble.module_dependencies(b"x\0depends=virtio,virtio_ring\0y\0") == (
        "virtio",
        "virtio_ring",
    )
    assert assemble.module_dependencies(b"x\0depends=\0y\0") == ()


def test_modules_are_ordered_by_need(tmp_path: Path) -> None:
    root = tmp_path / "lib/modules/6.1-test/kernel/net"
    root.mkdir(parents=True)
    needs = {"virtio_net": "net_failover,virtio", "net_failover": "failover"}
    for name in ("virtio_net", "net_failover", "failover", "virtio", "virtio-rng"):
        (root / f"{name}.ko").write_bytes(f"\0depends={needs.get(name, '')}\0".encode())
    modules = assemble.Modules(tmp_path)
    assert modules.release == "6.1-test"
    assert modules.closure(["virtio_net", "virtio-rng", "not_there"]) == [
        *("failover", "net_failover", "virtio", "virtio_net", "virtio_rng"),
    ]
    assert "virtio_rng" in modules
    assert modules.path("virtio_rng") == "kernel/net/virtio-rng.ko"


def test_a_tree_without_a_kernel_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="brought 0 sets of modules"):
        assemble.kernel_release(tmp_path)


async def test_the_boot_script_is_one() -> None:
    script = Path(assemble.__file__).with_name("boot.sh")
    await run(["sh", "-n", str(script)])
    assert "eval" not in script.read_text().replace("nothing is eval'ed", "")
