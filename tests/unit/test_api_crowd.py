"""Connections on which nobody asks anything: they are bounded, and end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from labd.api import server as serving
from labd.api.authenticators import Peer
from labd.api.server import ConnectionLimiter, bound, origin
from labd.client.client import Client
from labd.host.config_people import ApiConfig
from labd.host.listening import Endpoint
from labd.model.people import Role
from tests.unit.api_server import Server, api_server


@contextmanager
def far() -> Iterator[tuple[Server, tuple[str, int]]]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    with api_server(ApiConfig(listen=Endpoint(host=host, port=port))) as server:
        yield server, (host, port)


def cut(channel: socket.socket) -> bool:
    """Tell whether the server has ended a connection."""
    channel.settimeout(30)
    try:
        return channel.recv(1) == b""
    except ConnectionResetError:
        return True


def test_one_address_takes_no_more_than_its_half() -> None:
    with far() as (server, address), ExitStack() as stack:
        create = server.engine.access.create
        chief = server.run(create("chief", Role.ADMINISTRATOR, (), None))
        for _ in range(bound() // 2 - 1):
            stack.enter_context(socket.create_connection(address))
        last = stack.enter_context(socket.create_connection(address))
        over = stack.enter_context(socket.create_connection(address))
        assert cut(over)
        with Client(server.socket) as root:
            assert root.info()["version"] == "9.9.9", "others are served"
        last.close()  # and so is the next, when one has gone
        with Client(f"http://{address[0]}:{address[1]}", chief.token) as client:
            assert client.tokens.caller()["role"] == "administrator"


def test_a_connection_without_a_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_FIRST_WORD", 0.2)
    with far() as (_, address), socket.create_connection(address) as channel:
        channel.sendall(b"GET /v1/info HTTP/1.1\r\nHost: 127.0")
        assert cut(channel)


async def test_a_crowd_is_counted_by_where_they_come_from() -> None:
    crowd = ConnectionLimiter(2, 3)
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(5)]
    made = [(await loop.create_connection(asyncio.Protocol, sock=a))[0] for a, _ in pairs]
    try:
        assert [crowd.admit("anna", t) for t in made[:3]] == [True, True, False]
        assert [crowd.admit("bob", t) for t in made[3:]] == [True, False], "three are all"
        made[0].close()
        assert crowd.admit("bob", made[4])
        assert not crowd.admit("anna", made[2])
    finally:
        for transport in made:
            transport.close()
        for _, theirs in pairs:
            theirs.close()


def test_root_is_not_bounded_and_users_are_by_name() -> None:
    nobody = asyncio.Transport()
    assert origin(nobody, Peer(uid=0, groups=frozenset({0}))) is None
    assert origin(nobody, Peer(uid=65534, groups=frozenset({65534}))) == "user nobody"
    far_away = asyncio.Transport(extra={"peername": ("192.0.2.1", 4711)})
    assert origin(far_away, None) == "192.0.2.1"
