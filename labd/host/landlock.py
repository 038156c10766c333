"""Landlock: the files that a process may open at all, whoever its user is (landlock(7)).

    restrict(Files(run=(Path("/usr"),)))  # this thread, and all that it starts, for ever

Descriptors that are open already stay what they are, and that is the use of it here: labd opens
what a program needs and hands it over, and the program itself then opens next to nothing. Beside
files, the TCP ports (from ABI 4 on), abstract unix sockets and signals to processes outside (6) are
denied whole. Numbers are from `linux/landlock.h`, the meaning from the kernel's
Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labd.host.libc import LIBC, PR_SET_NO_NEW_PRIVS, why
from labd.model.errors import CommandFailed

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # system calls; the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP, _SCOPES = 0b11, 0b11
# ABI -> how many rights on files it knows: they are bits, and each version adds some at the end.
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_NOW = 16  # from ABI 5 on
_NET_SINCE, _SCOPES_SINCE = 4, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What may be opened by a path. A folder stands for all below it; what is missing is skipped.

    Attributes:
        run: May be read and executed.
        read: May be read.
        write: May be read and written; a device also takes its ioctls.
        opened: Descriptors whose files may be read by `/proc/self/fd/N`, too.
        filled: Descriptors whose files may be read and written so.
    """

    run: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    opened: tuple[int, ...] = ()
    filled: tuple[int, ...] = ()


@functools.cache
def abi() -> int:
    """Return the version of Landlock that this kernel has; 0 when it has none, or not switched on.

    Linux 5.13 brought version 1, 6.1 (Debian 12) has 2, and 6.8 (Ubuntu 24.04) has 4.
    """
    size, flags = ctypes.c_size_t(0), ctypes.c_long(_VERSION)
    return max(0, int(LIBC.syscall(ctypes.c_long(_CREATE), None, size, flags)))


def restrict(files: Files) -> None:
    """Deny this thread, and what it starts, every file but these. There is no way back.

    Does nothing on a kernel without Landlock: `lab doctor` tells.

    Raises:
        CommandFailed: The kernel refuses; nothing is denied then.
    """
    version = abi()
    if not version:
        return
    rights = (1 << _RIGHTS.get(version, _RIGHTS_NOW)) - 1
    attributes = struct.pack("=Q", rights)
    if version >= _NET_SINCE:
        attributes += struct.pack("=Q", _TCP)
    if version >= _SCOPES_SINCE:
        attributes += struct.pack("=Q", _SCOPES)
    with ExitStack() as stack:
        ruleset = _call("make a ruleset", _CREATE, attributes, len(attributes), 0)
        stack.callback(os.close, ruleset)
        read = _READ_FILE | _READ_DIR
        for paths, allowed in (
            (files.run, read | _EXECUTE),
            (files.read, read),
            (files.write, rights & ~_EXECUTE),
        ):
            for path in paths:
                _allow_path(ruleset, path, allowed & rights)
        for descriptor in files.opened:
            _allow(ruleset, descriptor, _READ_FILE)
        for descriptor in files.filled:
            _allow(ruleset, descriptor, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & rights)
        if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise _failed("set no-new-privs")
        _call("enter a ruleset", _RESTRICT, ruleset, 0)


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _allow(ruleset, descriptor, rights)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, descriptor: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, descriptor)
    try:
        _call("add a rule", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    except CommandFailed as error:
        # A file in memory (memfd) lies on no mount: Landlock leaves it alone in any case.
        if error.details["errno"] != errno.EBADFD:
            raise


def _call(what: str, number: int, *arguments: object) -> int:
    wide = (ctypes.c_long(item) if isinstance(item, int) else item for item in arguments)
    result = int(LIBC.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise _failed(what)
    return result


def _failed(what: str) -> CommandFailed:
    number, text = why()
    return CommandFailed(f"Landlock: cannot {what}: {text}; see `lab doctor`", errno=number)
