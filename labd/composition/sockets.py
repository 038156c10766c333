"""Unix sockets of the daemon, and secrets beside them."""

from __future__ import annotations

import grp
import logging
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from labd.model.errors import ConfigError
from labd.model.paths import check_socket_path

log = logging.getLogger(__name__)


def group_of(name: str) -> int | None:
    """The id of the group that may use the API; None: root alone, which is logged once."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        log.warning(
            "there is no group %s, so only root can use the API; `lab doctor` tells how to make it",
            name,
        )
        return None


def listen(path: Path, mode: int, group: int | None, stack: AsyncExitStack) -> socket.socket:
    """Bind a unix socket that has its mode before anybody can connect.

    uvicorn's own `uds=` would leave it at 0666.

    Raises:
        ConfigError: The path cannot be had.
    """
    check_socket_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777)
    try:
        path.unlink(missing_ok=True)  # of a daemon that was killed: the root's lock is ours
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {path}: {error.strerror}; move away what is there"
        ) from error
    finally:
        os.umask(before)
    stack.callback(path.unlink, missing_ok=True)
    if group is not None:
        os.chown(path, 0, group)
    os.chmod(path, mode)
    return listener


def write_secret(path: Path, text: str, group: int | None) -> None:
    """Write a file that root and a group can read."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        if group is not None:
            os.fchown(fd, 0, group)
            os.fchmod(fd, 0o640)
        file.write(text + "\n")
