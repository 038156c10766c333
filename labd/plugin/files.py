"""What the daemon leaves in a plugin's folder for it, and what the plugin keeps there.

The folder is the plugin's working folder and its own (0700). Credentials are files and not
environment or arguments, for those of a process are read too easily. Two of the files say again
what others do, in the words of `curl -H @api-header` and of `mosquitto_sub`, for plugins in shell.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SETTINGS = "settings.json"
TOKEN = "token"  # noqa: S105 - a file's name
PASSWORD = "mqtt-password"  # noqa: S105 - a file's name
HEADER = "api-header"
SUBSCRIBER = "mosquitto_sub"  # where mosquitto_sub(1) looks, as XDG_CONFIG_HOME is the folder
CURSOR = "cursor"
SINCE = "since"  # where a plugin without a cursor begins: the seq of its first enabling

# Environment of a plugin; nothing in it is secret.
ENV_NAME = "LABD_PLUGIN_NAME"
ENV_SOCKET = "LABD_API_SOCKET"
ENV_HOST = "LABD_HOST_ID"
ENV_MQTT_HOST = "LABD_MQTT_HOST"
ENV_MQTT_PORT = "LABD_MQTT_PORT"
ENV_MQTT_USER = "LABD_MQTT_USER"
ENV_EVENTS = "LABD_PLUGIN_EVENTS"
ENV_CODE = "LABD_PLUGIN_DIR"
ENV_STATE = "LABD_PLUGIN_STATE"

_LOG_LIMIT = 256 << 10  # bytes; twice that is kept


def replace_file(path: Path, text: str, owner: int | None = None, mode: int = 0o600) -> None:
    """Write a file whole or not at all, durably."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(fd, "w", encoding="utf-8") as file:
        if owner is not None:
            os.fchown(fd, owner, owner)
        file.write(text)
        file.flush()
        os.fsync(fd)
    fresh.replace(path)


def give(folder: Path, uid: int) -> None:
    """Give a folder and all in it to a user.

    Links are not followed, and what has a second name elsewhere is left alone.
    """
    os.chown(folder, uid, uid)
    for _, folders, names, fd in os.fwalk(folder, follow_symlinks=False):
        for name in [*folders, *names]:
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode) or facts.st_nlink == 1:
                os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)


def append_log(path: Path, chunk: bytes) -> None:
    """Append to a log that is rotated, with one older file kept, `.log.1`."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a plugin needs to come in.

    Attributes:
        mqtt_host: Empty when there is no broker that would let a plugin in.
    """

    name: str
    socket: str
    token: str = field(repr=False)
    host_id: str
    mqtt_host: str
    mqtt_port: int
    mqtt_password: str = field(repr=False)
    settings: Mapping[str, object]

    @classmethod
    def load(cls, folder: Path, environment: Mapping[str, str]) -> Credentials:
        """Read them in the plugin's process.

        Raises:
            KeyError, OSError, ValueError: It was not started by labd.
        """
        return cls(
            name=environment[ENV_NAME],
            socket=environment[ENV_SOCKET],
            token=(folder / TOKEN).read_text().strip(),
            host_id=environment[ENV_HOST],
            mqtt_host=environment[ENV_MQTT_HOST],
            mqtt_port=int(environment[ENV_MQTT_PORT]),
            mqtt_password=(folder / PASSWORD).read_text().strip(),
            settings=json.loads((folder / SETTINGS).read_text()),
        )
