"""Where everything lies, from one `--root`. No I/O: `labd.host.paths` makes and checks folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from labd.model.errors import ConfigError

# sockaddr_un.sun_path has 108 bytes, the last of which is NUL (unix(7)).
SOCKET_PATH_LIMIT = 107
# The longest path below `run`: n/<key of 6>/serial.sock, and room for a key of 8.
_LONGEST_SOCKET = "n/12345678/serial.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The folders of one daemon. Make it by `system()` or `below(root)`.

    Attributes:
        root: What names this daemon on the host; `/` for the system's own.
        etc: What people write: `labd.toml`.
        run: Sockets and logs that do not survive a boot.
        state: Inventory, images and disks.
        cache: Downloads and builds; may be deleted while labd is stopped.
    """

    root: Path
    etc: Path
    run: Path
    state: Path
    cache: Path

    @classmethod
    def system(cls) -> Paths:
        """Return the paths of the Filesystem Hierarchy Standard."""
        return cls(
            root=Path("/"),
            etc=Path("/etc/labd"),
            run=Path("/run/labd"),
            state=Path("/var/lib/labd"),
            cache=Path("/var/cache/labd"),
        )

    @classmethod
    def below(cls, root: Path) -> Paths:
        """Return paths that are all below an absolute folder of one's own.

        Raises:
            ConfigError: It is relative, or so long that no unix socket fits below it.
        """
        if not root.is_absolute():
            raise ConfigError(f"root {str(root)!r} is not absolute: write the whole path")
        paths = cls(
            root=root,
            etc=root / "etc",
            run=root / "run",
            state=root / "lib",
            cache=root / "cache",
        )
        check_socket_path(paths.run / _LONGEST_SOCKET)
        return paths

    @classmethod
    def of(cls, root: Path | None) -> Paths:
        """Return `below(root)`, or the system's paths for None and for `/`."""
        return cls.system() if root is None or root == Path("/") else cls.below(root)

    @property
    def config(self) -> Path:
        """The configuration file, which need not exist."""
        return self.etc / "labd.toml"

    @property
    def api_socket(self) -> Path:
        """Where the daemon listens for people: the members of its group."""
        return self.run / "api.sock"

    @property
    def connect_socket(self) -> Path:
        """Where people get connections into labs, as open descriptors; beside `api_socket`."""
        return self.run / "connect.sock"

    @property
    def people_socket(self) -> Path:
        """Where the daemon listens for users of the host who have a role, or a token."""
        return self.run / "people.sock"

    @property
    def token_secret(self) -> Path:
        """From which the tokens of classes follow."""
        return self.state / "token-secret"

    @property
    def plugin_socket(self) -> Path:
        """Where the daemon listens for plugins, with a token."""
        return self.run / "plugin.sock"

    @property
    def broker_password(self) -> Path:
        """Password of the broker's user `reader`, for people."""
        return self.run / "broker-reader"

    @property
    def lock(self) -> Path:
        """Held by the one daemon of this root."""
        return self.run / "labd.lock"

    @property
    def database(self) -> Path:
        """The inventory."""
        return self.state / "labd.db"

    @property
    def images(self) -> Path:
        """The image store."""
        return self.state / "images"

    @property
    def nodes(self) -> Path:
        """A folder per node, by key, for its disks."""
        return self.state / "nodes"

    @property
    def node_runs(self) -> Path:
        """A folder per node, by key, for its sockets and logs."""
        return self.run / "n"

    @property
    def lab_runs(self) -> Path:
        """A folder per lab with a dnsmasq, by key, for what that reads and writes."""
        return self.run / "d"

    @property
    def keys(self) -> Path:
        """The SSH key pair of each lab, by its key."""
        return self.state / "keys"

    @property
    def plugins(self) -> Path:
        """State, log and credentials of each plugin, by name."""
        return self.state / "plugins"

    @property
    def broker(self) -> Path:
        """Configuration, persistence and credentials of the managed broker."""
        return self.state / "broker"

    @property
    def broker_run(self) -> Path:
        """Socket and log of the managed broker."""
        return self.run / "mqtt"


def check_socket_path(path: Path) -> Path:
    """Return `path` when a unix socket can be bound there.

    Raises:
        ConfigError: It is longer than 107 bytes.
    """
    length = len(os.fsencode(path))
    if length <= SOCKET_PATH_LIMIT:
        return path
    raise ConfigError(
        f"unix socket path {str(path)!r} has {length} bytes, and {SOCKET_PATH_LIMIT} are allowed:"
        f" choose a root that is {length - SOCKET_PATH_LIMIT} bytes shorter",
        path=str(path),
    )
