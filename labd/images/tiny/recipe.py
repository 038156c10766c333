"""Build the tiny guest or one of its flavours, or find it in the cache.

    <cache>/debs/                 package files, as downloaded
    <cache>/<flavour>/<key>/      kernel and initrd; the key is a digest of recipe and packages
    <cache>/<flavour>/last        two lines: stamp of recipe and apt's lists, and the key it came to

With an unchanged stamp nothing is run at all.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from labd.host.commands import run
from labd.host.threads import bulk
from labd.images.room import no_room
from labd.images.tiny import assemble, packages
from labd.images.tiny.flavour import TINY, Flavour
from labd.images.tiny.packages import Package
from labd.model.errors import CommandFailed, InputError, StorageFailed

# panic=0: hold after a panic, so that pvpanic's GUEST_PANICKED is the last thing that happens.
# The rest is start-up time: docs/images.md has the figures.
CMDLINE = (
    "console=ttyS0 quiet panic=0 mitigations=off no_timer_check tsc=unstable nokaslr "
    "random.trust_cpu=on audit=0 apparmor=0 cryptomgr.notests 8250.nr_uarts=1 i8042.noaux"
)
READY_PATTERN = r"^labd: ready "

# The first of these that apt knows is taken: Debian's, then Ubuntu's.
_KERNELS = ("linux-image-cloud-amd64", "linux-image-kvm", "linux-image-virtual")
_APT_LISTS = Path("/var/lib/apt/lists")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Where the tiny guest is. The files are read-only and belong to the cache."""

    kernel: Path
    initrd: Path


async def build(cache: Path, progress: Callable[[str], None], flavour: Flavour = TINY) -> Built:
    """Return the guest for what apt offers now.

    Args:
        cache: Folder that is kept between builds; it is made when missing.
        progress: Called with one line for each step.
        flavour: Which guest.

    Raises:
        InputError: This host is not a 64-bit x86 one.
        CommandFailed: apt or dpkg failed; its last words are in the message.
        StorageFailed: The cache cannot be written, or a package has not what is expected in it.
    """
    if platform.machine() != "x86_64":
        raise InputError(
            f"the {flavour.name} image is built from amd64 packages, this host is "
            f"{platform.machine()}; import an image that was built elsewhere (lab image import)"
        )
    try:
        return await _build(cache, progress, flavour)
    except CommandFailed as error:
        if not no_room(error):
            raise
        raise StorageFailed(
            f"no room to build the {flavour.name} image in {cache}; make room or choose another "
            "cache folder"
        ) from error
    except OSError as error:
        raise StorageFailed(
            f"cannot build in {cache}: {error.strerror}; make room or choose another cache folder"
        ) from error


async def _build(cache: Path, progress: Callable[[str], None], flavour: Flavour) -> Built:
    name = flavour.name
    home = cache / name
    stamp = await bulk(_stamp)
    if (built := await bulk(_from_stamp, home, stamp)) is not None:
        progress(f"{name}: up to date")
        return built
    progress(f"{name}: resolving packages")
    wanted = await _resolve(flavour)
    built = _place(home, _key(wanted, flavour))
    if not await bulk(_complete, built):
        progress(f"{name}: fetching {len(wanted)} packages")
        files = await packages.fetch(wanted, cache / "debs")
        await _make(files, home, built, progress, flavour)
    await bulk(_remember, home, stamp, built)
    progress(f"{name}: built")
    return built


async def _make(
    files: Iterable[Path],
    home: Path,
    built: Built,
    progress: Callable[[str], None],
    flavour: Flavour,
) -> None:
    await bulk(home.mkdir, parents=True, exist_ok=True)
    scratch = Path(await bulk(tempfile.mkdtemp, prefix=".build-", dir=home))
    try:
        progress(f"{flavour.name}: unpacking")
        await packages.unpack(files, scratch / "tree")
        progress(f"{flavour.name}: packing the initramfs")
        busybox = await bulk(assemble.busybox, scratch / "tree")
        applets = (await run([str(busybox), "--list"])).stdout.decode().split()
        await bulk(_write, scratch / "tree", applets, flavour, scratch / "out")
        await bulk(_publish, scratch / "out", built.kernel.parent)
    finally:
        await bulk(shutil.rmtree, scratch, ignore_errors=True)


def _place(home: Path, key: str) -> Built:
    return Built(kernel=home / key / "kernel", initrd=home / key / "initrd")


def _complete(built: Built) -> bool:
    return built.kernel.is_file() and built.initrd.is_file()


def _publish(out: Path, home: Path) -> None:
    try:
        out.rename(home)
    except OSError:
        if not home.is_dir():  # else another build of the same was quicker
            raise


def _remember(home: Path, stamp: str, built: Built) -> None:
    fresh = home / f"last.{os.getpid()}"
    fresh.write_text(f"{stamp}\n{built.kernel.parent.name}\n")
    fresh.replace(home / "last")


def _stamp() -> str:
    """Return a digest of all that decides the outcome, without asking apt."""
    digest = hashlib.sha256(_recipe_digest().encode())
    lists = _APT_LISTS.stat().st_mtime_ns if _APT_LISTS.exists() else 0
    digest.update(str(lists).encode())
    return digest.hexdigest()


def _recipe_digest() -> str:
    digest = hashlib.sha256()
    for item in sorted(resources.files("labd.images.tiny").iterdir(), key=lambda item: item.name):
        if item.name.endswith((".py", ".sh")):
            digest.update(item.name.encode() + b"\0" + item.read_bytes() + b"\0")
    return digest.hexdigest()


def _from_stamp(home: Path, stamp: str) -> Built | None:
    try:
        known, key = (home / "last").read_text().split()
    except (OSError, ValueError):
        return None
    built = _place(home, key)
    return built if known == stamp and _complete(built) else None


async def _resolve(flavour: Flavour) -> Mapping[str, Package]:
    kernels = await packages.offered(_KERNELS)
    kernel = next((name for name in _KERNELS if name in kernels), _KERNELS[0])
    found = await packages.with_libraries([kernel, *flavour.packages])
    # The kernel's name is a meta package; what it depends on holds the kernel and its modules.
    parts = [name for name in found[kernel].depends if name.startswith("linux-image-")]
    image = await packages.with_libraries(parts)
    modules = [
        name
        for package in image.values()
        for name in package.depends
        if name.startswith("linux-modules-")
    ]
    return found | image | await packages.with_libraries(modules)


def _key(wanted: Mapping[str, Package], flavour: Flavour) -> str:
    digest = hashlib.sha256(f"{flavour.name} {_recipe_digest()}".encode())
    for name in sorted(wanted):
        digest.update(f"{name} {wanted[name].sha256}\n".encode())
    return digest.hexdigest()[:32]


def _write(tree: Path, applets: list[str], flavour: Flavour, out: Path) -> None:
    out.mkdir()
    shutil.copyfile(assemble.kernel_file(tree), out / "kernel")
    (out / "initrd").write_bytes(assemble.initramfs(tree, applets, flavour))
    for path in out.iterdir():
        os.chmod(path, 0o444)
