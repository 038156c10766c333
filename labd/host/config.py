"""labd.toml: what an administrator may choose, with defaults that need no file at all.

    [daemon]
    accel = "auto"              # auto, kvm or tcg
    max_booting = 0             # nodes that boot at once; 0 lets labd choose by CPUs
    memory_reserve_mib = 512    # never given to machines
    pool_reserve_mib = 1024     # besides it, never taken by warm pools, which are given back for it
    uid_base = 0                # first of 1024 user ids for machines; 0 lets labd choose by root
    group = "labd"              # may use the API socket
    log_level = "info"          # debug, info, warning or error
    log_format = "text"         # text or json

    [broker]
    mode = "managed"            # managed or external
    tcp_port = 0                # managed: loopback port for plugins; 0 lets the kernel choose
    url = ""                    # external: mqtt://host:1883 or mqtts://host:8883
    username = ""
    password_file = ""
    ca_file = ""
    outbox_events = 500000      # that wait for a broker that is away
    outbox_days = 14            # and for how long

    [network]
    bridges = []                # host bridges that `uplink: bridge:NAME` may name
    outside = []                # interfaces for `uplink: nat`; empty: those of the default routes
    closed = []                 # subnets that no lab reaches by NAT, like "10.0.0.0/8"
    transit = "198.18.0.0/16"   # addresses between labs and the host, a /30 for each lab with NAT

    [access]
    authorized_keys = []        # OpenSSH public keys that every node takes, besides its lab's
    authorized_keys_file = ""   # or a file of them, one a line
    administrators = []         # users of the host, or groups like "@admins", at people.sock
    instructors = []            # the same

    [api]
    listen = ""                 # host:port for people with tokens; empty: unix sockets only
    certificate = ""            # PEM; needed unless `listen` is of the loopback
    key = ""
    hosts = []                  # names of this host that requests may use

    [limits]
    student_requests = 20       # a second, of each student
    student_streams = 32        # WebSockets at one time
    student_commands = 8        # lab exec at one time

    [publish]                   # connections at one time, over published ports
    port_connections = 128      # of one port
    lab_connections = 512       # of one lab
    connections = 2048          # of all labs; an eighth of labd's descriptors at most

    [plugins]
    dirs = []                   # folders with plugins, besides the shipped ones

    [memory]
    ksm = "auto"                # auto: as the host has it; on: labd switches it on; off: no merging
    pause_below_mib = 0         # labs are paused below it; 0: half of memory_reserve_mib
    stall_percent = 40          # ... or when all tasks waited for memory so long; 0: never
    cgroups = "auto"            # auto: limit machines where cgroup v2 can; off: never

    [quotas]                    # of each lab; 0: no limit
    nodes = 0
    vcpus = 0
    memory_mib = 0
    disk_mib = 0                # of its disks as its guests see them, images included
    written_mib = 0             # that its disks may take on the host; then it is paused

    [storage]
    default = "local"           # class of new disks; `local` is the state folder

    # [storage.fast]            # a class of its own
    # driver = "local"
    # path = "/srv/fast"        # a folder that exists

Every message has file:line, what is wrong and what to write instead.
"""

from __future__ import annotations

import re
import tomllib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, NoReturn

from labd.host import config_storage
from labd.host import config_values as values
from labd.host.config_people import CHECKS, ApiConfig, LimitsConfig, PublishConfig, why_not
from labd.host.config_storage import StorageConfig
from labd.host.config_values import UID_BLOCK
from labd.model.errors import ConfigError
from labd.model.names import did_you_mean
from labd.model.quotas import Quotas
from labd.model.specs import Accel

_UID_FIRST = 2_000_000_000
_UID_BLOCKS = 100_000
_LOG_LEVELS = ("debug", "info", "warning", "error")
# Of RFC 2544, for benchmarks: in no network that people use.
TRANSIT: Final = IPv4Network("198.18.0.0/16")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """Section `[daemon]`. `uid_base` and `max_booting` are 0 when labd is to choose."""

    accel: Accel = Accel.AUTO
    max_booting: int = 0
    memory_reserve_mib: int = 512
    pool_reserve_mib: int = 1024
    uid_base: int = 0
    group: str = "labd"
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Section `[broker]`."""

    mode: str = "managed"
    tcp_port: int = 0
    url: str = ""
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    outbox_events: int = 500_000
    outbox_days: int = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Section `[network]`."""

    bridges: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    closed: tuple[IPv4Network, ...] = ()
    transit: IPv4Network = TRANSIT


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Section `[access]`. `load` has put the keys of the file behind the others."""

    authorized_keys: tuple[str, ...] = ()
    authorized_keys_file: Path | None = None
    administrators: tuple[str, ...] = ()
    instructors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsConfig:
    """Section `[plugins]`."""

    dirs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Section `[memory]`. `pause_below_mib` is 0 when labd is to choose."""

    ksm: str = "auto"
    pause_below_mib: int = 0
    stall_percent: int = 40
    cgroups: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotasConfig:
    """Section `[quotas]`: what each lab may have at most; 0 for no limit."""

    nodes: int = 0
    vcpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    written_mib: int = 0

    def of_labs(self) -> Quotas:
        """Return them in bytes."""
        return Quotas(
            nodes=self.nodes,
            vcpus=self.vcpus,
            memory=self.memory_mib << 20,
            disk=self.disk_mib << 20,
            written=self.written_mib << 20,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of labd.toml."""

    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    plugins: PluginsConfig = field(default_factory=PluginsConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    quotas: QuotasConfig = field(default_factory=QuotasConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)


def default_uid_base(root: Path) -> int:
    """Return the first of the 1024 user ids that belong to the machines of a root.

    It follows from the real path of the root, so that daemons on one host do not share ids, and
    stays below 2**31, where some file systems and tools end.
    """
    block = zlib.crc32(bytes(root.resolve())) % _UID_BLOCKS
    return _UID_FIRST + block * UID_BLOCK


def load(path: Path, *, required: bool = False) -> Config:
    """Read a configuration file; the defaults when it does not exist and is not `required`.

    Raises:
        ConfigError: It cannot be read or is wrong; the message begins with file:line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not required:
            return Config()
        raise ConfigError(f"{path}: no such file; write it or leave --config out") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return parse(text, file=str(path))


def parse(text: str, *, file: str = "labd.toml") -> Config:
    """Return the configuration that TOML text describes.

    Raises:
        ConfigError: As in `load`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = f"{file}:{found[1]}:{found[2]}" if found else file
        what = str(error).split(" (at ")[0]
        raise ConfigError(f"{place}: not valid TOML: {what}") from error
    return _Reader(file, text).config(document)


class _Reader:
    """Checks a parsed document against the dataclasses, knowing where each key stands."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = _key_lines(text)

    def config(self, document: Mapping[str, object]) -> Config:
        known = {item.name for item in fields(Config)}
        for name, value in document.items():
            if name not in known:
                self.fail(name, "", f"unknown section '{name}'{did_you_mean(name, known)}")
            if not isinstance(value, dict):
                self.fail(name, "", f"'{name}' must be a section: write [{name}]")
        config = Config(
            daemon=DaemonConfig(**self.section(document, "daemon", DaemonConfig)),
            broker=BrokerConfig(**self.section(document, "broker", BrokerConfig)),
            network=NetworkConfig(**self.section(document, "network", NetworkConfig)),
            access=self.access(document),
            plugins=PluginsConfig(**self.section(document, "plugins", PluginsConfig)),
            memory=MemoryConfig(**self.section(document, "memory", MemoryConfig)),
            quotas=QuotasConfig(**self.section(document, "quotas", QuotasConfig)),
            api=ApiConfig(**self.section(document, "api", ApiConfig)),
            limits=LimitsConfig(**self.section(document, "limits", LimitsConfig)),
            publish=PublishConfig(**self.section(document, "publish", PublishConfig)),
            storage=config_storage.read(self.given(document, "storage"), self.fail),
        )
        self.check_broker(config.broker)
        key, why = why_not(config.api)
        if why:
            self.fail("api", key, why)
        return config

    def given(self, document: Mapping[str, object], name: str) -> dict[str, Any]:
        found = document.get(name, {})
        assert isinstance(found, dict)  # noqa: S101 - `config` has refused all else
        return found

    def section(self, document: Mapping[str, object], name: str, kind: type) -> dict[str, Any]:
        given = self.given(document, name)
        known = [item.name for item in fields(kind)]
        result = {}
        for key, value in given.items():
            if key not in known:
                self.fail(name, key, f"unknown key '{key}'{did_you_mean(key, known)}")
            try:
                result[key] = _CHECKS[name, key](value)
            except ValueError as error:
                self.fail(name, key, f"{key} = {values.shown(value)}: {error}")
        return result

    def access(self, document: Mapping[str, object]) -> AccessConfig:
        access = AccessConfig(**self.section(document, "access", AccessConfig))
        path = access.authorized_keys_file
        if path is None:
            return access
        key = "authorized_keys_file"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.fail("access", key, f"{key}: {path} cannot be read: {reason}")
        found = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                found.append(values.public_key(line.strip()))
            except ValueError as error:
                self.fail("access", key, f"{key}: {path}:{number}: {error}")
        return replace(access, authorized_keys=(*access.authorized_keys, *found))

    def check_broker(self, broker: BrokerConfig) -> None:
        if broker.mode == "external" and not broker.url:
            self.fail("broker", "mode", "an external broker needs a url, like mqtt://host:1883")
        if broker.mode == "external" and broker.tcp_port:
            self.fail("broker", "tcp_port", "tcp_port is of a managed broker: put the port in url")
        if broker.mode == "managed":
            for key in ("url", "username", "password_file", "ca_file"):
                if getattr(broker, key):
                    self.fail(
                        "broker", key, f'{key} is of an external broker: add mode = "external"'
                    )

    def fail(self, section: str, key: str, message: str) -> NoReturn:
        line = self.lines.get((section, key)) or self.lines.get((section, ""))
        place = f"{self.file}:{line}" if line else self.file
        raise ConfigError(f"{place}: {message}", file=self.file, line=line or 0)


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """Find the line of each section and key, for tomllib does not tell. Only for messages."""
    lines: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            section = found[1].strip("\"'")
            lines.setdefault((section, ""), number)
        elif found := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            key = re.sub(r"[\"']", "", found[1])
            if section:
                lines.setdefault((section, key), number)
            else:
                head, _, tail = key.partition(".")
                lines.setdefault((head, ""), number)
                lines.setdefault((head, tail), number)
    return lines


_CHECKS: Final[Mapping[tuple[str, str], Callable[[object], Any]]] = {
    ("daemon", "accel"): lambda value: Accel(values.one_of(*Accel)(value)),
    ("daemon", "max_booting"): values.number(0, 1000),
    ("daemon", "memory_reserve_mib"): values.number(0, 1 << 24),
    ("daemon", "pool_reserve_mib"): values.number(0, 1 << 24),
    ("daemon", "uid_base"): values.uid_base,
    ("daemon", "group"): values.matching(values.GROUP, "a group name"),
    ("daemon", "log_level"): values.one_of(*_LOG_LEVELS),
    ("daemon", "log_format"): values.one_of("text", "json"),
    ("broker", "mode"): values.one_of("managed", "external"),
    ("broker", "tcp_port"): values.number(0, 65535),
    ("broker", "url"): values.broker_url,
    ("broker", "username"): values.text,
    ("broker", "password_file"): values.file,
    ("broker", "ca_file"): values.file,
    ("broker", "outbox_events"): values.number(1_000, 100_000_000),
    ("broker", "outbox_days"): values.number(1, 3_650),
    ("network", "bridges"): values.list_of(values.matching(values.INTERFACE, "an interface name")),
    ("access", "authorized_keys"): values.list_of(values.public_key),
    ("access", "authorized_keys_file"): values.file,
    ("network", "outside"): values.list_of(values.matching(values.INTERFACE, "an interface name")),
    ("network", "closed"): values.list_of(values.subnet),
    ("network", "transit"): values.transit,
    ("plugins", "dirs"): values.list_of(values.absolute),
    ("memory", "ksm"): values.one_of("auto", "on", "off"),
    ("memory", "pause_below_mib"): values.number(0, 1 << 24),
    ("memory", "stall_percent"): values.number(0, 100),
    ("memory", "cgroups"): values.one_of("auto", "off"),
    ("quotas", "nodes"): values.number(0, 500),
    ("quotas", "vcpus"): values.number(0, 1 << 16),
    ("quotas", "memory_mib"): values.number(0, 1 << 24),
    ("quotas", "disk_mib"): values.number(0, 1 << 30),
    ("quotas", "written_mib"): values.number(0, 1 << 30),
    **CHECKS,
}
