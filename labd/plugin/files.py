"""What the daemon leaves in a plugin's folder for it, and what the plugin keeps there.

The folder is the plugin's working folder and its own (0700). Credentials are files and not
environment, for the environment of a process is read too easily.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SETTINGS = "settings.json"
TOKEN = "token"  # noqa: S105 - a file's name
PASSWORD = "mqtt-password"  # noqa: S105 - a file's name
CURSOR = "cursor"

# Environment of a plugin; nothing in it is secret.
ENV_NAME = "LABD_PLUGIN_NAME"
ENV_SOCKET = "LABD_API_SOCKET"
ENV_HOST = "LABD_HOST_ID"
ENV_MQTT_HOST = "LABD_MQTT_HOST"
ENV_MQTT_PORT = "LABD_MQTT_PORT"
ENV_MQTT_USER = "LABD_MQTT_USER"
ENV_EVENTS = "LABD_PLUGIN_EVENTS"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a plugin needs to come in."""

    name: str
    socket: str
    token: str
    host_id: str
    mqtt_host: str
    mqtt_port: int
    mqtt_password: str
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
