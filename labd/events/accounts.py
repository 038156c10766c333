"""Who may do what at the managed broker, and its configuration; pure text for mosquitto's files.

Sources: mosquitto.conf(5), and mosquitto 2.0's `password_mosq.c` for the form of the hashes.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from labd.events.messages import ROOT
from labd.model.errors import InputError
from labd.model.names import check_name

OWNER = "labd"  # the one user that may write
PROBE = "labd-probe"  # comes in to see that a reload is done; may neither read nor write
_RESERVED = frozenset({OWNER, PROBE})

# Passwords here are 192 random bits that nobody chose, so that no stretching is needed; mosquitto
# computes the hash in its only loop, at each connection.
_ITERATIONS = 101
_SALT = 12  # bytes; mosquitto 2.0 takes no other length

CONFIG = """\
# Written by labd, and again at each start.
per_listener_settings false
allow_anonymous false
password_file passwd
acl_file acl
# The outbox in labd's inventory is what lasts.
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
log_timestamp false
connection_messages false
sys_interval 0
# A subscriber that does not read costs 10,000 messages at most, and nobody else waits for it.
max_inflight_messages 100
max_queued_messages 10000
max_queued_bytes 33554432
queue_qos0_messages false
persistent_client_expiration 1d
max_packet_size 1048576
set_tcp_nodelay true
listener 0 s/mqtt.sock
listener {port} 127.0.0.1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUser:
    """A user besides labd itself: it may read, and write nothing.

    Attributes:
        name: A plugin's name.
        password: Random; see `new_password`.
        reads: Topic filters, such as `Topics.all` or `Topics.lab`.
    """

    name: str
    password: str = field(repr=False)
    reads: tuple[str, ...]


def new_password() -> str:
    """Return 192 random bits as text without characters that a file or URL minds."""
    return secrets.token_urlsafe(24)


def check_user(user: BrokerUser) -> None:
    """Raise InputError unless a user can be written into mosquitto's files.

    Raises:
        InputError: Its name or a filter cannot be.
    """
    check_name(user.name, "broker user")
    if user.name in _RESERVED:
        raise InputError(f"broker user name {user.name!r} is labd's own: choose another")
    for topic in user.reads:
        if not topic.startswith(f"{ROOT}/") or any(ord(c) < 32 for c in topic) or len(topic) > 512:
            raise InputError(
                f"broker user {user.name} cannot read {topic[:64]!r}: "
                f"a topic filter begins with {ROOT}/ and has no control characters"
            )


def password_line(name: str, password: str, salt: bytes | None = None) -> str:
    """Return a line of mosquitto's password file: PBKDF2 with SHA-512, its type 7."""
    salt = salt or secrets.token_bytes(_SALT)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    encoded = [base64.b64encode(part).decode() for part in (salt, digest)]
    return f"{name}:$7${_ITERATIONS}${'$'.join(encoded)}\n"


def acl_text(users: Iterable[BrokerUser]) -> str:
    """Return mosquitto's ACL file: labd writes below `labd/`, the others read their filters."""
    lines = [f"user {OWNER}", "topic readwrite labd/#", "", f"user {PROBE}", ""]
    for user in users:
        lines += [f"user {user.name}", *(f"topic read {topic}" for topic in user.reads), ""]
    return "\n".join(lines)
