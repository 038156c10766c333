"""Network namespaces: made, entered and removed without a child process.

A namespace is a property of a thread (namespaces(7)). Work inside one is done by a thread of its
own, which never comes back: nothing has to be restored, and the event loop's thread never moves.
`/proc/sys/net` follows the calling thread too.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from labd.host.libc import CLONE_NEWNET, LIBC, MNT_DETACH, MS_BIND, MS_REC, MS_SHARED, mount, why
from labd.host.threads import in_thread, quick
from labd.model.errors import NetworkFailed

FOLDER = Path("/run/netns")

T = TypeVar("T")


def _call(what: str, result: int) -> None:
    if result != 0:
        number, text = why()
        raise NetworkFailed(f"{what} failed: {text}", errno=number)


async def inside(name: str, work: Callable[[], T]) -> T:
    """Run `work` inside a namespace.

    Raises:
        NetworkFailed: There is no such namespace, or it cannot be entered.
    """

    def enter() -> T:
        try:
            fd = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkFailed(f"cannot open namespace {name}: {error.strerror}") from error
        try:
            _call(f"entering namespace {name}", LIBC.setns(fd, CLONE_NEWNET))
        finally:
            os.close(fd)
        return work()

    return await in_thread(enter)


async def in_new_one(work: Callable[[], T]) -> T:
    """Run `work` in a namespace that ends with it.

    Raises:
        NetworkFailed: It cannot be made.
    """

    def enter() -> T:
        _call("making a network namespace", LIBC.unshare(CLONE_NEWNET))
        return work()

    return await in_thread(enter)


def share_folder() -> None:
    """Make the folder of names a shared mount of its own, as ip-netns(8) does.

    The first `ip netns add` of a host copies the folder's mounts on top of themselves. A namespace
    that had its name before would keep a mount below, which nobody can reach and take away.

    Raises:
        NetworkFailed: The kernel refuses.
    """
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the lock that iproute2 takes for the same
        # No look tells a mount of a folder on itself from the folder; the kernel refuses to share
        # what is no mount.
        if mount(None, FOLDER, MS_SHARED | MS_REC) != 0:
            bind = mount(FOLDER, FOLDER, MS_BIND | MS_REC)
            _call(f"mounting {FOLDER} on itself", bind)
            share = mount(None, FOLDER, MS_SHARED | MS_REC)
            _call(f"sharing {FOLDER} with other mount namespaces", share)
    finally:
        os.close(fd)


async def create(name: str) -> bool:
    """Make a namespace (idempotent); tell whether it was made by this call.

    Raises:
        NetworkFailed: It cannot be made; nothing is left.
    """

    def make() -> bool:
        share_folder()
        path = FOLDER / name
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
        except FileExistsError:
            if os.path.ismount(path):
                return False
            # Left by a daemon that died between the file and the mount.
        try:
            _call("making a network namespace", LIBC.unshare(CLONE_NEWNET))
            own = Path("/proc/thread-self/ns/net")
            _call(f"mounting namespace {name}", mount(own, path, MS_BIND))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return True

    return await in_thread(make)


async def remove(name: str) -> None:
    """Take a namespace's name away; with its last user it is gone, and all that is in it.

    Raises:
        NetworkFailed: The kernel refuses.
    """

    def take() -> None:
        path = FOLDER / name
        while os.path.ismount(path):
            if LIBC.umount2(os.fsencode(path), MNT_DETACH) == 0:
                continue
            number, text = why()
            # Somebody else who ends the same lab may have been quicker.
            if number not in {errno.EINVAL, errno.ENOENT} or os.path.ismount(path):
                raise NetworkFailed(f"unmounting namespace {name} failed: {text}", errno=number)
        path.unlink(missing_ok=True)

    await quick(take)


def names(prefix: str) -> list[str]:
    """Return the names of the namespaces that begin with `prefix`."""
    try:
        return sorted(name for name in os.listdir(FOLDER) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def exists(name: str) -> bool:
    """True if there is a namespace of that name."""
    return os.path.ismount(FOLDER / name)
