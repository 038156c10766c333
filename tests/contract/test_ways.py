"""What the engine may rely on of connections, doors and keys, on the fakes and the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.client.relay import Relays
from labd.core.ports import LabKeys
from labd.drivers.network.linux import (
    HostPublishedPorts,
    LabNetworks,
    NamespaceDialer,
    netns,
    sockets,
)
from labd.drivers.network.port import Dial, Dialer, PublishedPort, PublishedPorts
from labd.host.sshkeys import SshKeys
from labd.model.errors import InputError, NetworkFailed
from labd.model.network import BridgePlan, LabNetworkPlan
from labd.model.publish import Bound, ConnectionBounds
from tests.fakes.connect import FakeDialer, FakeKeys, FakePublishedPorts

# keys


@pytest.fixture(params=["fake", "files"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> LabKeys:
    return FakeKeys() if request.param == "fake" else SshKeys(tmp_path / "keys")


async def test_a_key_is_made_once_and_kept(keys: LabKeys) -> None:
    assert await keys.read("abc123") is None
    assert await keys.all() == []
    first = await keys.ensure("abc123")
    assert first.public.startswith("ssh-ed25519 ")
    assert first.public.endswith(" labd-abc123")
    assert "\n" not in first.public
    assert first.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert await keys.ensure("abc123") == await keys.read("abc123") == first
    assert (await keys.ensure("other1")).public != first.public
    assert list(await keys.all()) == ["abc123", "other1"]
    await keys.remove("abc123")
    await keys.remove("abc123")
    assert await keys.read("abc123") is None
    assert list(await keys.all()) == ["other1"]


async def test_a_key_file_is_for_root_alone_and_a_draft_is_made_anew(tmp_path: Path) -> None:
    made = SshKeys(tmp_path)
    (tmp_path / ".new-abc123").mkdir()
    (tmp_path / ".new-abc123" / "id_ed25519").write_text("half a key")
    await made.ensure("abc123")
    assert [entry.name for entry in tmp_path.iterdir()] == ["abc123"]
    folder = tmp_path / "abc123"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "id_ed25519").stat().st_mode) == 0o600


async def test_openssh_takes_a_key_for_its_own(tmp_path: Path) -> None:
    key = await SshKeys(tmp_path).ensure("abc123")
    said = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", tmp_path / "abc123" / "id_ed25519"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[:2] == key.public.split()[:2]


# connections


@pytest.fixture(params=["fake", "kernel"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Dialer, str]]:
    """Give a dialer and a namespace in which 127.0.0.1:80 greets whoever comes."""
    if request.param == "fake":
        fake = FakeDialer()
        fake.listening.add(("127.0.0.1", 80))
        yield fake, "labd-fake-abc123"
        return
    root = secrets.token_hex(4)
    networks, space = LabNetworks(root), f"labd-{root}-abc123"
    await networks.apply(LabNetworkPlan(namespace=space, bridges=()))
    listener = await netns.inside(space, lambda: socket.create_server(("127.0.0.1", 80)))
    listener.setblocking(False)

    async def greet() -> None:
        while True:
            caller, _ = await asyncio.get_running_loop().sock_accept(listener)
            with caller:
                caller.sendall(b"127.0.0.1:80")

    greeting = asyncio.create_task(greet())
    try:
        yield NamespaceDialer(), space
    finally:
        greeting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await greeting
        listener.close()
        await networks.remove(space)


async def test_a_connection_is_made_inside(place: tuple[Dialer, str]) -> None:
    dialer, space = place
    with await dialer.dial(space, "127.0.0.1", 80, 5.0) as way:
        assert way.gettimeout() == 0.0, "it does not block"
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(way, 100), 5) == b"127.0.0.1:80"
    with pytest.raises(NetworkFailed) as caught:
        await dialer.dial(space, "127.0.0.1", 81, 5.0)
    assert caught.value.message == "127.0.0.1:81: connection refused"
    assert caught.value.details["errno"] == 111


async def test_nobody_answers_and_nothing_is_there() -> None:
    dialer, root = NamespaceDialer(), secrets.token_hex(4)
    networks, space = LabNetworks(root), f"labd-{root}-abc123"
    with pytest.raises(NetworkFailed, match="cannot open namespace"):
        await dialer.dial(space, "127.0.0.1", 80, 5.0)
    bridge = BridgePlan(network="lan", bridge="br-lan", address="10.0.0.254/24")
    await networks.apply(LabNetworkPlan(namespace=space, bridges=(bridge,)))
    try:
        with pytest.raises(NetworkFailed) as caught:
            await dialer.dial(space, "10.0.0.1", 80, 0.2)
        assert caught.value.message == "10.0.0.1:80: no answer within 0.2 s"
        assert caught.value.details["timed_out"] is True
        for address in ("192.0.2.1", "2001:db8::1"):
            with pytest.raises(NetworkFailed, match=r"network is unreachable|cannot assign"):
                await dialer.dial(space, address, 80, 5.0)
    finally:
        await networks.remove(space)


async def test_connections_end_with_their_namespace() -> None:
    root = secrets.token_hex(4)
    networks, space = LabNetworks(root), f"labd-{root}-abc123"
    place = ("127.0.0.1", 80)
    await networks.apply(LabNetworkPlan(namespace=space, bridges=()))
    with contextlib.ExitStack() as stack:
        try:
            listener = await netns.inside(space, lambda: socket.create_server(place, backlog=300))
            stack.enter_context(listener)
            ways = [  # more than one answer of the kernel holds
                stack.enter_context(await NamespaceDialer().dial(space, *place, 5.0))
                for _ in range(200)
            ]
            assert await netns.inside(space, sockets.end_connections) > 200
            for way in ways:
                with pytest.raises(ConnectionError):
                    way.recv(1)
            listener = await netns.inside(space, lambda: socket.create_server(place))
            stack.enter_context(listener)
            last = stack.enter_context(await NamespaceDialer().dial(space, *place, 5.0))
        finally:
            await networks.remove(space)
        with pytest.raises(ConnectionError):
            last.recv(1)


# doors


@pytest.fixture(params=["fake", "kernel"])
def published_ports(request: pytest.FixtureRequest) -> PublishedPorts:
    return FakePublishedPorts() if request.param == "fake" else real_ports()


MANY = ConnectionBounds(port=10_000, lab=10_000, host=10_000)


def real_ports(bounds: ConnectionBounds = MANY) -> HostPublishedPorts:
    return HostPublishedPorts(Relays().add, bounds)


def listen(
    ports: PublishedPorts, address: str, port: int, dial: Dial, lab: str = "web"
) -> PublishedPort:
    return ports.open(address, port, dial, lab=lab, refused=lambda _: None)


def opened(dial: Dial) -> PublishedPort:
    return listen(real_ports(), "127.0.0.1", 0, dial)


def never() -> Dial:
    async def dial() -> socket.socket:
        raise NetworkFailed("nobody is there")

    return dial


async def test_a_port_is_taken_and_given_back(published_ports: PublishedPorts) -> None:
    door = listen(published_ports, "127.0.0.1", 0, never())
    port = door.port
    assert port > 0
    with pytest.raises(InputError) as caught:
        listen(published_ports, "127.0.0.1", port, never())
    assert caught.value.message == (
        f"port 127.0.0.1:{port} of the host is in use; choose another one, or 0 to have one chosen"
    )
    await door.close()
    await door.close()
    again = listen(published_ports, "127.0.0.1", port, never())
    assert again.port == port
    await again.close()
    with pytest.raises(InputError, match=r"^192\.0\.2\.1 is no address of this host; write 127"):
        listen(published_ports, "192.0.2.1", 0, never())


async def talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_bytes_pass_a_door_both_ways_and_each_way_ends_by_itself() -> None:
    async def dial() -> socket.socket:
        near, far = socket.socketpair()

        async def serve() -> None:
            reader, writer = await asyncio.open_connection(sock=far)
            data = await reader.read()
            writer.write(f"{len(data)} bytes".encode())
            writer.close()

        tasks.append(asyncio.create_task(serve()))
        return near

    tasks: list[asyncio.Task[None]] = []
    door = opened(dial)
    try:
        said = await asyncio.gather(*(talk(door.port, b"x" * 3_000_000) for _ in range(4)))
        assert said == [b"3000000 bytes"] * 4
    finally:
        await door.close()
        await asyncio.gather(*tasks)


async def test_a_door_that_leads_nowhere_refuses_and_one_that_closes_ends_its_connections() -> None:
    made = real_ports()
    door = listen(made, "127.0.0.1", 0, never())
    with pytest.raises(ConnectionResetError):
        await talk(door.port, b"hello")
    await door.close()
    far_ends: list[socket.socket] = []

    async def dial() -> socket.socket:
        near, far = socket.socketpair()
        far_ends.append(far)
        return near

    door = listen(made, "127.0.0.1", 0, dial)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"x")
    async with asyncio.timeout(5):
        while not far_ends:
            await asyncio.sleep(0.01)
    await door.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    far_ends[0].settimeout(5)
    assert far_ends[0].recv(10) in {b"x", b""}
    far_ends[0].close()
    with pytest.raises(ConnectionRefusedError):
        await talk(door.port, b"")


async def test_a_slow_reader_holds_back_the_sender() -> None:
    """Nothing is gathered in between: a sender stops when the receiver does not read."""
    near, far = socket.socketpair()

    async def dial() -> socket.socket:
        return near

    door = opened(dial)
    with socket.create_connection(("127.0.0.1", door.port)) as caller:
        caller.setblocking(False)
        sent = 0
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += caller.send(bytes(1 << 16))
            await asyncio.sleep(0.01)
        assert sent < 64 << 20
    far.close()
    await door.close()


class FarEnds:
    """Dials sockets whose other ends stay here."""

    def __init__(self) -> None:
        self.all: list[socket.socket] = []

    async def dial(self) -> socket.socket:
        near, far = socket.socketpair()
        far.setblocking(False)
        self.all.append(far)
        return near

    async def count(self, number: int) -> None:
        async with asyncio.timeout(20):
            while len(self.all) < number:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        for far in self.all:
            far.close()


async def greets(caller: socket.socket, far: socket.socket, word: bytes) -> None:
    """Have a word pass each way."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        await loop.sock_sendall(caller, word)
        assert await loop.sock_recv(far, 100) == word
        await loop.sock_sendall(far, word[::-1])
        assert await loop.sock_recv(caller, 100) == word[::-1]


async def connected(port: int) -> socket.socket:
    caller = socket.socket()
    caller.setblocking(False)
    await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", port))
    return caller


async def refuses(port: int) -> None:
    with await connected(port) as caller:
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(caller, 1)


async def test_many_connections_take_one_thread() -> None:
    ends, before = FarEnds(), threading.active_count()
    port = opened(ends.dial)
    callers = []
    for number in range(200):
        callers.append(await connected(port.port))
        await ends.count(number + 1)
    assert threading.active_count() <= before + 2
    for number, (caller, far) in enumerate(zip(callers, ends.all, strict=True)):
        await greets(caller, far, b"to %d" % number)
    await port.close()
    for end in (*callers, *ends.all):
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(end, 1) == b""
        end.close()
    async with asyncio.timeout(20):
        while threading.active_count() > before:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_up_no_other_connection() -> None:
    ends = FarEnds()
    port = opened(ends.dial)
    slow = await connected(port.port)
    await ends.count(1)
    flood = asyncio.create_task(asyncio.get_running_loop().sock_sendall(slow, bytes(64 << 20)))
    other = await connected(port.port)
    await ends.count(2)
    for number in range(200):
        await greets(other, ends.all[1], b"word %d" % number)
    assert not flood.done()
    # When it reads at last, all of it is there.
    got = 0
    async with asyncio.timeout(60):
        while got < 64 << 20:
            got += len(await asyncio.get_running_loop().sock_recv(ends.all[0], 1 << 20))
    await flood
    await port.close()
    for end in (slow, other):
        end.close()
    ends.close()


async def test_a_caller_that_breaks_off_frees_its_place_and_ends_the_other_side() -> None:
    ends = FarEnds()
    port = listen(real_ports(ConnectionBounds(port=1, lab=9, host=9)), "127.0.0.1", 0, ends.dial)
    with await connected(port.port) as caller:
        await ends.count(1)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with asyncio.timeout(20):
        assert await asyncio.get_running_loop().sock_recv(ends.all[0], 1) == b""
        while True:
            with await connected(port.port) as again:
                await asyncio.sleep(0.05)
                if len(ends.all) > 1:
                    await greets(again, ends.all[1], b"hello")
                    break
    await port.close()
    ends.close()


@pytest.mark.parametrize(
    ("bounds", "bound", "others"),
    [
        (ConnectionBounds(port=3, lab=9, host=9), Bound.PORT, (True, True)),
        (ConnectionBounds(port=9, lab=3, host=9), Bound.LAB, (False, True)),
        (ConnectionBounds(port=9, lab=9, host=3), Bound.HOST, (False, False)),
    ],
)
async def test_connections_are_bounded_by_port_lab_and_host(
    bounds: ConnectionBounds, bound: Bound, others: tuple[bool, bool]
) -> None:
    """`others`: whether another port of the lab, and a port of another lab, have room still."""
    told: list[Bound] = []
    ports, ends = real_ports(bounds), FarEnds()
    first = ports.open("127.0.0.1", 0, ends.dial, lab="web", refused=told.append)
    second = ports.open("127.0.0.1", 0, ends.dial, lab="web", refused=told.append)
    third = ports.open("127.0.0.1", 0, ends.dial, lab="db", refused=told.append)
    callers = []
    for number in range(3):
        callers.append(await connected(first.port))
        await ends.count(number + 1)
    await refuses(first.port)
    assert told == [bound]
    for port, room in zip((second, third), others, strict=True):
        if room:
            have = len(ends.all)
            callers.append(await connected(port.port))
            await ends.count(have + 1)
        else:
            await refuses(port.port)
    assert set(told) == {bound}
    # A place is free again when a connection has ended on both sides.
    callers[0].close()
    ends.all[0].close()
    have = len(ends.all)
    async with asyncio.timeout(20):
        while len(ends.all) == have:
            callers.append(await connected(first.port))
            await asyncio.sleep(0.05)
    for port in (first, second, third):
        await port.close()
    for caller in callers:
        caller.close()
    ends.close()


async def test_a_port_that_closes_while_it_dials_frees_the_places() -> None:
    async def dial() -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    ports, ends = real_ports(ConnectionBounds(port=1, lab=1, host=1)), FarEnds()
    port = listen(ports, "127.0.0.1", 0, dial)
    with await connected(port.port):
        await refuses(port.port)
        await port.close()
    port = listen(ports, "127.0.0.1", 0, ends.dial)
    with await connected(port.port) as caller:
        await ends.count(1)
        await greets(caller, ends.all[0], b"hello")
    await port.close()
    ends.close()
