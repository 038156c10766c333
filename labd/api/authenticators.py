"""Who comes in by which door.

api.sock      mode 0660: whom the file lets in is an administrator
people.sock   mode 0666: users of the host whom `[access]` gives a role, by the kernel's word
              (SO_PEERCRED, unix(7)); everybody else by token
plugin.sock   mode 0666: plugins, each by its own token
TCP           people, by token
"""

from __future__ import annotations

import functools
import grp
import hashlib
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import Scope

from labd.api import problems
from labd.api.callers import Access, Caller, TokenCheck
from labd.api.headers import header
from labd.host.config import AccessConfig
from labd.model.errors import ConfigError
from labd.model.people import Role

PEER = "labd.peer"  # key of a connection's `Peer` in the state of its scope
# Linux: the groups of the peer (unix(7) has it not yet; net/core/sock.c of 4.13 and newer).
_SO_PEERGROUPS = 59
_ROOM = 1_024  # bytes, the most that Python's getsockopt takes: 256 groups
_LONGEST_TOKEN = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of a unix socket, when it connected."""

    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, channel: socket.socket) -> Peer | None:
        """Return the peer of a socket, None of one that is no unix socket."""
        if channel.family != socket.AF_UNIX:
            return None
        packed = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", packed)
        try:
            packed = channel.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _ROOM)
        except OSError:  # there are more
            return cls(uid=uid, groups=frozenset(os.getgrouplist(_user(uid), gid)))
        groups = struct.unpack(f"{len(packed) // 4}I", packed)
        return cls(uid=uid, groups=frozenset({gid, *groups}))

    @property
    def name(self) -> str:
        """What the host calls the user."""
        return _user(self.uid)


@functools.lru_cache(maxsize=1_024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRoles:
    """Roles of users of the host; the higher one counts where two fit.

    Attributes:
        users: User id -> role.
        groups: Group id -> role.
    """

    users: Mapping[int, Role] = field(default_factory=dict)
    groups: Mapping[int, Role] = field(default_factory=dict)

    def of(self, peer: Peer) -> Role | None:
        """Return the role of a user, None for none. Root is an administrator anyway."""
        found = {self.users.get(peer.uid), *(self.groups.get(gid) for gid in peer.groups)}
        if peer.uid == 0 or Role.ADMINISTRATOR in found:
            return Role.ADMINISTRATOR
        return Role.INSTRUCTOR if Role.INSTRUCTOR in found else None


def user_roles(access: AccessConfig) -> UserRoles:
    """Return the roles that the configuration gives to users and groups of the host.

    Raises:
        ConfigError: The host has no such user or group.
    """
    users: dict[int, Role] = {os.geteuid(): Role.ADMINISTRATOR}
    groups: dict[int, Role] = {}
    # Administrators last: whoever is both is one.
    for key, names, role in (
        ("instructors", access.instructors, Role.INSTRUCTOR),
        ("administrators", access.administrators, Role.ADMINISTRATOR),
    ):
        for name in names:
            try:
                if name.startswith("@"):
                    groups[grp.getgrnam(name[1:]).gr_gid] = role
                else:
                    users[pwd.getpwnam(name).pw_uid] = role
            except KeyError as error:
                kind = "group" if name.startswith("@") else "user"
                raise ConfigError(
                    f"[access] {key}: this host has no {kind} {name.lstrip('@')}; make it, or "
                    "take the name out"
                ) from error
    return UserRoles(users=users, groups=groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticators:
    """The ways in.

    Attributes:
        admin: The unix socket whose every peer is an administrator.
        people: That on which people are known by token or as users of the host.
        plugins: Knows the tokens of plugins, who come by any other unix socket.
        users: Roles of users of the host.
        hosts: Names of this daemon, besides its addresses.
    """

    admin: Path
    people: Path
    plugins: TokenCheck
    users: UserRoles = field(default_factory=UserRoles)
    hosts: frozenset[str] = frozenset()

    async def identify(self, scope: Scope, access: Access) -> Caller:
        """Return who makes a request.

        Raises:
            Unauthorised: Nobody knows.
        """
        server = scope.get("server") or ("", None)
        peer: Peer | None = scope.get("state", {}).get(PEER)
        if server[1] is None and str(server[0]) == str(self.admin):
            name = "administrator" if peer is None else f"user {peer.name}"
            return Caller(name=name, role=Role.ADMINISTRATOR)
        token = _bearer(scope)
        if server[1] is None and str(server[0]) != str(self.people):
            return self._plugin(token)
        role = None if peer is None or token else self.users.of(peer)
        if role is not None and peer is not None:
            owner = peer.name if role is Role.INSTRUCTOR else ""
            return Caller(name=f"user {peer.name}", role=role, owner=owner)
        return await _person(token, access)

    def _plugin(self, token: str) -> Caller:
        found = self.plugins(_required(token))
        if found is None:
            raise problems.Unauthorised(
                "the token is not valid: it was revoked, or never given out"
            )
        return Caller(name=found.name, scopes=frozenset(found.scopes))


def origin_of(scope: Scope) -> str:
    """Return from where a stranger comes, in words."""
    peer: Peer | None = scope.get("state", {}).get(PEER)
    client = scope.get("client")
    if client:
        return f"a stranger from {client[0]}"
    return f"user {peer.name}" if peer is not None else "a stranger"


def _bearer(scope: Scope) -> str:
    """Return the token of a request (RFC 6750), or an empty text."""
    kind, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _required(token: str) -> str:
    if not token:
        raise problems.Unauthorised("this socket needs a token: send `Authorization: Bearer TOKEN`")
    return token


def _void() -> problems.Unauthorised:
    return problems.Unauthorised(
        "the token is not valid: it was revoked, has expired, or was never given out"
    )


async def _person(token: str, access: Access) -> Caller:
    if len(_required(token)) > _LONGEST_TOKEN:
        raise _void()
    hash_ = hashlib.sha256(token.encode()).hexdigest()
    record = await access.holder(hash_)
    if record is None:
        raise _void()
    return Caller(
        name=f"token {record.name}",
        role=record.role,
        owner=record.name if record.role is Role.INSTRUCTOR else "",
        labs=frozenset(lab.key for lab in record.labs),
        token=hash_,
    )
