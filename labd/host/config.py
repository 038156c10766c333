"""labd.toml: what an administrator may choose, with defaults that need no file at all.

    [daemon]
    accel = "auto"              # auto, kvm or tcg
    max_booting = 0             # nodes that boot at once; 0 lets labd choose by CPUs
    memory_reserve_mib = 512    # never given to machines
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

    [network]
    bridges = []                # host bridges that `uplink: bridge:NAME` may name
    outside = []                # interfaces for `uplink: nat`; empty: those of the default routes
    closed = []                 # subnets that no lab reaches by NAT, like "10.0.0.0/8"
    transit = "198.18.0.0/16"   # addresses between labs and the host, a /30 for each lab with NAT

    [access]
    authorized_keys = []        # OpenSSH public keys that every node takes, besides its lab's
    authorized_keys_file = ""   # or a file of them, one a line

    [plugins]
    dirs = []                   # folders with plugins, besides the shipped ones

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
from urllib.parse import urlsplit

from labd.model.errors import ConfigError
from labd.model.names import did_you_mean
from labd.model.specs import Accel

UID_BLOCK: Final = 1024
_UID_FIRST = 2_000_000_000
_UID_BLOCKS = 100_000
_UID_FLOOR = 100_000
_UID_LAST = (1 << 31) - 1 - UID_BLOCK
_LOG_LEVELS = ("debug", "info", "warning", "error")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_PUBLIC_KEY = re.compile(
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp\d{3}|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)"
    r"@openssh\.com) [A-Za-z0-9+/]{32,}={0,3}(?: [ -~]*)?"
)
# Of RFC 2544, for benchmarks: in no network that people use.
TRANSIT: Final = IPv4Network("198.18.0.0/16")
_TRANSIT_WIDEST, _TRANSIT_LONGEST = 8, 28
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """Section `[daemon]`. `uid_base` and `max_booting` are 0 when labd is to choose."""

    accel: Accel = Accel.AUTO
    max_booting: int = 0
    memory_reserve_mib: int = 512
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsConfig:
    """Section `[plugins]`."""

    dirs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of labd.toml."""

    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    plugins: PluginsConfig = field(default_factory=PluginsConfig)


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
        )
        self.check_broker(config.broker)
        return config

    def section(self, document: Mapping[str, object], name: str, kind: type) -> dict[str, Any]:
        values = document.get(name, {})
        assert isinstance(values, dict)  # noqa: S101 - `config` has refused all else
        known = [item.name for item in fields(kind)]
        result = {}
        for key, value in values.items():
            if key not in known:
                self.fail(name, key, f"unknown key '{key}'{did_you_mean(key, known)}")
            try:
                result[key] = _CHECKS[name, key](value)
            except ValueError as error:
                self.fail(name, key, f"{key} = {_shown(value)}: {error}")
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
                found.append(_public_key(line.strip()))
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


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")
    return value


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not pattern.fullmatch(_text(value)):
            raise ValueError(f"is not {what}")
        return _text(value)

    return check


def _one_of(*choices: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return _text(value)

    return check


def _number(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}")
        return value

    return check


def _uid_base(value: object) -> int:
    base = _number(0, _UID_LAST)(value)
    if base and base < _UID_FLOOR:
        raise ValueError(f"must be 0 or {_UID_FLOOR} to {_UID_LAST}, away from real users")
    return base


def _absolute(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _file(value: object) -> Path | None:
    return None if value == "" else _absolute(value)


def _list_of(check: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def check_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError('must be a list, like ["a", "b"]')
        return tuple(check(item) for item in value)

    return check_all


def _public_key(value: object) -> str:
    """Return a line of authorized_keys (sshd(8)); options before the key are not taken."""
    text = _text(value).strip()
    if not _PUBLIC_KEY.fullmatch(text):
        raise ValueError('is no OpenSSH public key, like "ssh-ed25519 AAAA… name"')
    return text


def _subnet(value: object) -> IPv4Network:
    text = _text(value)
    try:
        return IPv4Network(text)
    except ValueError:
        raise ValueError("must be IPv4 subnets, like 10.0.0.0/8") from None


def _transit(value: object) -> IPv4Network:
    subnet = _subnet(value)
    if not _TRANSIT_WIDEST <= subnet.prefixlen <= _TRANSIT_LONGEST:
        raise ValueError(f"must have a prefix length of {_TRANSIT_WIDEST} to {_TRANSIT_LONGEST}")
    return subnet


def _broker_url(value: object) -> str:
    text = _text(value)
    if text:
        url = urlsplit(text)
        if url.scheme not in {"mqtt", "mqtts"} or not url.hostname or url.path.strip("/"):
            raise ValueError("must be like mqtt://host:1883 or mqtts://host:8883")
        if url.username or url.password:
            raise ValueError("must not hold credentials: use username and password_file")
        _ = url.port  # a ValueError of its own when it is no number from 0 to 65535
    return text


_CHECKS: Final[Mapping[tuple[str, str], Callable[[object], Any]]] = {
    ("daemon", "accel"): lambda value: Accel(_one_of(*Accel)(value)),
    ("daemon", "max_booting"): _number(0, 1000),
    ("daemon", "memory_reserve_mib"): _number(0, 1 << 24),
    ("daemon", "uid_base"): _uid_base,
    ("daemon", "group"): _matching(_GROUP, "a group name"),
    ("daemon", "log_level"): _one_of(*_LOG_LEVELS),
    ("daemon", "log_format"): _one_of("text", "json"),
    ("broker", "mode"): _one_of("managed", "external"),
    ("broker", "tcp_port"): _number(0, 65535),
    ("broker", "url"): _broker_url,
    ("broker", "username"): _text,
    ("broker", "password_file"): _file,
    ("broker", "ca_file"): _file,
    ("network", "bridges"): _list_of(_matching(_INTERFACE, "an interface name")),
    ("access", "authorized_keys"): _list_of(_public_key),
    ("access", "authorized_keys_file"): _file,
    ("network", "outside"): _list_of(_matching(_INTERFACE, "an interface name")),
    ("network", "closed"): _list_of(_subnet),
    ("network", "transit"): _transit,
    ("plugins", "dirs"): _list_of(_absolute),
}
