"""Build the Debian machine, or find it in the cache.

    <cache>/debian/<key>/         disk, kernel and initrd; the key is a digest of recipe and sources
    <cache>/debian/.build-*/      what is being built
    <cache>/debian/lock           held by a build; who has it removes what an interrupted one left

With unchanged inputs nothing is built: apt is only asked what its sources are.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from labd.host.commands import run
from labd.host.threads import bulk
from labd.images.debian.sources import Sources, configured
from labd.images.room import no_room
from labd.model.errors import CommandFailed, InputError, StorageFailed
from labd.model.units import format_size

_LABEL = "labd-root"
# The serial line is the console; the rest is start-up time, as in labd.images.tiny.
CMDLINE = (
    f"root=LABEL={_LABEL} rw console=ttyS0 quiet mitigations=off no_timer_check tsc=unstable "
    "random.trust_cpu=on audit=0 apparmor=0 systemd.show_status=0 net.ifnames=0"
)
READY_PATTERN = r"^labd: ready "

_PACKAGES = (
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "dbus",
    "udev",
    "kmod",
    "cloud-init",
    "qemu-guest-agent",
    "openssh-server",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "zstd",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "netbase",
    "nftables",
    "procps",
    "rsync",
    "sudo",
    "less",
    "nano",
    "ca-certificates",
    "curl",
)
# Of documentation only the licences; of languages only English.
_LEFT_OUT = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
)
_VIRTUAL_SIZE = 4 << 30
_ROOM = 3 << 30  # bytes that a build takes at its height, and some
_BUILD_TIMEOUT = 1800.0
_LOCK_POLL = 1.0  # seconds
_OFFLINE = ("Could not resolve", "Could not connect", "Temporary failure", "Failed to fetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Where the machine's parts are. The files are read-only and belong to the cache."""

    folder: Path

    @property
    def disk(self) -> Path:
        """A qcow2 file with one ext4 file system."""
        return self.folder / "disk"

    @property
    def kernel(self) -> Path:
        """Its kernel."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """Its initramfs."""
        return self.folder / "initrd"

    def complete(self) -> bool:
        """True if all of it is there."""
        return all(path.is_file() for path in (self.disk, self.kernel, self.initrd))


async def build(cache: Path, progress: Callable[[str], None]) -> Built:
    """Return the machine for what apt offers now.

    Args:
        cache: Folder that is kept between builds; it is made when missing.
        progress: Called with one line for each step.

    Raises:
        InputError: This host is not a 64-bit x86 one.
        CommandFailed: A tool failed or is missing, or apt cannot reach its sources.
        StorageFailed: No room in the cache. Nothing that this call made is left.
    """
    if platform.machine() != "x86_64":
        raise InputError(
            f"the debian image is built from amd64 packages, this host is {platform.machine()}; "
            "import an image that was built elsewhere (lab image import)"
        )
    home = cache / "debian"
    try:
        return await _build(home, progress)
    except OSError as error:
        raise StorageFailed(
            f"cannot build in {home}: {error.strerror}; make room or choose another cache folder"
        ) from error


async def _build(home: Path, progress: Callable[[str], None]) -> Built:
    sources = await configured()
    built = Built(folder=home / _key(sources))
    if await bulk(built.complete):
        progress("debian: up to date")
        return built
    async with AsyncExitStack() as undo:
        await _lock(home, undo, progress)
        if await bulk(built.complete):
            progress("debian: up to date")
            return built
        await bulk(_make_room, home)
        scratch = Path(await bulk(tempfile.mkdtemp, prefix=".build-", dir=home))
        undo.push_async_callback(bulk, shutil.rmtree, scratch, ignore_errors=True)
        progress(f"debian: installing {sources.suite} and {len(_PACKAGES)} packages (1-3 minutes)")
        await _install(sources, scratch)
        out = scratch / "out"
        await bulk(_take_kernel, scratch / "tree", out)
        progress("debian: making the file system")
        await _make_disk(scratch / "tree", scratch / "disk.raw", out / "disk", progress)
        await bulk(_publish, out, built.folder)
    progress("debian: built")
    return built


async def _lock(home: Path, undo: AsyncExitStack, progress: Callable[[str], None]) -> None:
    """Wait until no other process builds here; a process that ends lets go."""
    await bulk(home.mkdir, parents=True, exist_ok=True)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    undo.callback(os.close, descriptor)
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                progress("debian: waiting for another build")
            told = True
            await asyncio.sleep(_LOCK_POLL)


def _make_room(home: Path) -> None:
    """Remove what interrupted builds left, and see that there is room for another one."""
    for left in home.glob(".build-*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(home).free
    if free < _ROOM:
        raise StorageFailed(
            f"no room to build a debian image: {format_size(free)} are free in {home}, and it "
            f"takes {format_size(_ROOM)} for a moment; make room or choose another cache folder"
        )


async def _install(sources: Sources, scratch: Path) -> None:
    """Have mmdebstrap fill `tree` in the scratch folder.

    It gets mounts and processes of its own, which end with it, and it ends with this process,
    however that ends.

    Raises:
        CommandFailed, StorageFailed: With what to do about it.
    """
    hooks = await bulk(_write_hooks, scratch)
    temporary = scratch / "tmp"
    await bulk(temporary.mkdir)
    argv = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    argv += ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"]
    argv += [f"--include={','.join(_PACKAGES)}"]
    argv += [f"--dpkgopt={line}" for line in _LEFT_OUT]
    argv += ['--aptopt=APT::Install-Recommends "0"']
    argv += [f"--aptopt={line}" for line in sources.options]
    argv += [f"--essential-hook={hooks / 'early.sh'}", f"--customize-hook={hooks / 'late.sh'}"]
    argv += [sources.suite, str(scratch / "tree"), "-"]
    try:
        await run(
            argv,
            input="".join(f"{line}\n" for line in sources.lines).encode(),
            timeout=_BUILD_TIMEOUT,
            env={"TMPDIR": str(temporary)},
        )
    except CommandFailed as error:
        raise explained(error) from error


def explained(error: CommandFailed) -> CommandFailed | StorageFailed:
    """Return an error that says what to do about a failure of the tools that install packages."""
    said = str(error.details.get("stderr", ""))
    if no_room(error):
        return StorageFailed(
            "no room to build a debian image; make room or choose another cache folder"
        )
    for line in said.splitlines():
        if any(words in line for words in _OFFLINE):
            return CommandFailed(
                f"apt cannot fetch the packages of the debian image: {line.strip()[:200]}; see "
                "that `apt-get update` works on this host, and try again"
            )
    return error


def _write_hooks(scratch: Path) -> Path:
    folder = scratch / "hooks"
    folder.mkdir()
    for item in resources.files("labd.images.debian").joinpath("guest").iterdir():
        target = folder / item.name
        target.write_bytes(item.read_bytes())
        target.chmod(0o755)
    return folder


def _take_kernel(tree: Path, out: Path) -> None:
    out.mkdir()
    for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        found = sorted((tree / "boot").glob(pattern))
        if len(found) != 1:
            raise CommandFailed(
                f"the debian image has {len(found)} files /boot/{pattern} where one was expected; "
                "report this with the output of `apt-cache policy linux-image-cloud-amd64`"
            )
        found[0].rename(out / name)
    for link in ("vmlinuz", "initrd.img", "vmlinuz.old", "initrd.img.old"):
        (tree / link).unlink(missing_ok=True)


async def _make_disk(tree: Path, raw: Path, disk: Path, progress: Callable[[str], None]) -> None:
    try:
        await run(
            [
                *f"mke2fs -q -t ext4 -L {_LABEL} -m 1 -E lazy_itable_init=1".split(),
                *("-d", str(tree), str(raw), f"{_VIRTUAL_SIZE >> 10}k"),
            ],
            timeout=300,
        )
        progress("debian: packing the disk")
        await run(
            [
                *[
                    "qemu-img",
                    "convert",
                    "-f",
                    "raw",
                    "-O",
                    "qcow2",
                    "-c",
                    "-W",
                    "-m",
                    "4",
                    "-o",
                    "compression_type=zstd",
                ],
                *(str(raw), str(disk)),
            ],
            timeout=600,
        )
    except CommandFailed as error:
        raise explained(error) from error


def _publish(out: Path, folder: Path) -> None:
    for path in out.iterdir():
        path.chmod(0o444)
    try:
        out.rename(folder)
    except OSError:
        if not Built(folder=folder).complete():  # else another build of the same was quicker
            raise


def _key(sources: Sources) -> str:
    digest = hashlib.sha256(sources.digest.encode())
    _add(digest.update, resources.files("labd.images.debian"))
    return digest.hexdigest()[:32]


def _add(update: Callable[[bytes], None], folder: Traversable) -> None:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name.endswith((".py", ".sh")):
            update(item.name.encode() + b"\0" + item.read_bytes() + b"\0")
        elif item.is_dir() and item.name == "guest":
            _add(update, item)
