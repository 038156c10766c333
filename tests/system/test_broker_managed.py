"""The managed broker: a real mosquitto, its users, its ends."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from labd.events.accounts import BrokerUser, new_password
from labd.events.broker import ManagedBroker
from labd.events.mqtt import BrokerAddress, MqttError, connect
from labd.host import identity
from labd.model.errors import ConfigError, InputError
from tests.system.brokers import running_broker, short_folder, subscriber, until


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder with mode 0700 that only root may traverse."""
    with short_folder() as path:
        yield path


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[ManagedBroker]:
    """Yield a broker under supervision."""
    async with running_broker(folder) as running:
        yield running


def plugin(broker: ManagedBroker, user: BrokerUser) -> BrokerAddress:
    """Return where a plugin goes, as itself."""
    url = broker.plugin_address.url
    return BrokerAddress.parse(url, username=user.name, password=user.password)


async def test_it_runs_as_its_own_user_without_privileges(broker: ManagedBroker) -> None:
    status = Path(f"/proc/{broker.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    uid = pwd.getpwnam("mosquitto").pw_uid
    assert fields["Uid"].split() == [str(uid)] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"


async def test_it_listens_on_loopback_only(broker: ManagedBroker) -> None:
    with socket.create_connection(("127.0.0.1", broker.port), timeout=1):
        pass
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{broker.port:04X}")
    ]
    assert listening == [f"0100007F:{broker.port:04X}"]


async def test_secrets_are_for_root_and_the_broker_only(broker: ManagedBroker) -> None:
    gid = pwd.getpwnam("mosquitto").pw_gid
    for name in ("passwd", "acl"):
        facts = (broker.folder / name).stat()
        assert (facts.st_mode & 0o777, facts.st_uid, facts.st_gid) == (0o640, 0, gid)
    assert broker.address.password not in (broker.folder / "passwd").read_text()
    assert broker.address.password not in repr(broker.address)


@pytest.mark.parametrize(("name", "password"), [("", ""), ("labd", "wrong"), ("nobody", "x")])
async def test_wrong_credentials_are_refused(
    broker: ManagedBroker, name: str, password: str
) -> None:
    for address in (
        BrokerAddress(socket=broker.address.socket, username=name, password=password),
        BrokerAddress.parse(broker.plugin_address.url, username=name, password=password),
    ):
        with pytest.raises(MqttError, match=r"(?i)not authori[sz]ed"):
            async with connect(address, identifier="stranger"):
                pass


async def test_a_plugin_reads_its_scope_and_writes_nothing(broker: ManagedBroker) -> None:
    user = BrokerUser(name="watchdog", password=new_password(), reads=("labd/v1/h/lab/web/#",))
    await broker.set_users([user])
    async with (
        subscriber(broker.address, "#", "all") as everything,
        subscriber(plugin(broker, user), "#", "watchdog") as seen,
    ):
        async with connect(plugin(broker, user), identifier="writer") as connection:
            for topic in ("labd/v1/h/lab/web/events", "x", "labd/v1/h/status"):
                connection.refused = ""
                with pytest.raises(MqttError, match="Not authorized"):
                    await connection.deliver(topic, b"{}")
        async with connect(broker.address, identifier="labd-x") as connection:
            await connection.deliver("labd/v1/h/lab/web/events", b'{"seq": 1}')
            await connection.deliver("labd/v1/h/lab/other/events", b'{"seq": 2}')
            await connection.deliver("labd/v1/h/lab/web/state", b'{"seq": 3}')
        await until(lambda: len(seen.messages) == 2 and len(everything.messages) == 3)
        assert [topic for topic, _, _ in seen.messages] == [
            "labd/v1/h/lab/web/events",
            "labd/v1/h/lab/web/state",
        ]
        assert everything.seqs == [1, 2]


async def test_users_come_and_go_while_labd_stays_connected(broker: ManagedBroker) -> None:
    one = BrokerUser(name="one", password=new_password(), reads=("labd/v1/h/#",))
    two = BrokerUser(name="two", password=new_password(), reads=("labd/v1/h/#",))
    async with connect(broker.address, identifier="labd-stays") as stays:
        await broker.set_users([one])
        async with connect(plugin(broker, one), identifier="one") as first:
            await broker.set_users([two])
            with pytest.raises(MqttError):
                await asyncio.wait_for(first.lost(), 3)
        with pytest.raises(MqttError):
            async with connect(plugin(broker, one), identifier="one"):
                pass
        async with connect(plugin(broker, two), identifier="two"):
            pass
        await stays.deliver("labd/v1/h/status", b"{}")


@pytest.mark.parametrize(
    ("name", "topic", "message"),
    [
        ("labd", "labd/v1/#", "is labd's own"),
        ("labd-probe", "labd/v1/#", "is labd's own"),
        ("a\nuser labd", "labd/v1/#", "is not valid"),
        ("a", "labd/v1/x\ntopic readwrite #", "no control characters"),
        ("a", "#", "begins with labd/v1/"),
    ],
)
async def test_a_user_cannot_write_into_the_files_of_the_broker(
    broker: ManagedBroker, name: str, topic: str, message: str
) -> None:
    before = (broker.folder / "acl").read_bytes()
    with pytest.raises(InputError, match=message):
        await broker.set_users([BrokerUser(name=name, password="x", reads=(topic,))])
    assert (broker.folder / "acl").read_bytes() == before


async def test_it_is_started_again_on_the_same_port_with_the_same_users(
    broker: ManagedBroker,
) -> None:
    user = BrokerUser(name="one", password=new_password(), reads=("labd/v1/h/#",))
    await broker.set_users([user])
    pid, port = broker.pid, broker.port
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: broker.pid not in {None, pid})
    async with subscriber(plugin(broker, user), "labd/#", "one"):
        assert broker.port == port


async def test_nothing_is_left_after_stop(folder: Path) -> None:
    async with running_broker(folder) as broker:
        pid = broker.pid
        assert pid is not None
        child = identity.identify(pid)
        assert child is not None
    assert not identity.is_alive(child)
    assert list(folder.iterdir()) == []


async def test_a_configured_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        broker = ManagedBroker(folder / "broker", tcp_port=port)
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: another program does"):
            await broker.start()
        assert broker.pid is None
        await broker.stop()


async def test_a_system_user_that_is_not_there_is_told(folder: Path) -> None:
    broker = ManagedBroker(folder / "broker", user="no-such-user")
    with pytest.raises(ConfigError, match="apt-get install mosquitto"):
        await broker.start()


async def test_a_path_that_is_too_long_for_a_socket_is_told(folder: Path) -> None:
    broker = ManagedBroker(folder / ("x" * 90))
    with pytest.raises(ConfigError, match="choose a shorter --root"):
        await broker.start()
    assert list(folder.iterdir()) == []


async def test_users_that_were_set_before_the_start_are_let_in(folder: Path) -> None:
    user = BrokerUser(name="one", password=new_password(), reads=("labd/v1/h/#",))
    broker = ManagedBroker(folder / "broker")
    await broker.set_users([user])
    await broker.start()
    try:
        async with connect(plugin(broker, user), identifier="one"):
            pass
    finally:
        await broker.stop()


async def test_a_subscriber_that_does_not_read_slows_nobody(broker: ManagedBroker) -> None:
    user = BrokerUser(name="sleepy", password=new_password(), reads=("labd/v1/h/#",))
    await broker.set_users([user])
    sleepy = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-V", "5", "-p", str(broker.port), "-h", "127.0.0.1",
        "-u", "sleepy", "-P", user.password, "-t", "labd/v1/h/#", "-q", "1",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.sleep(0.2)
        sleepy.send_signal(signal.SIGSTOP)
        async with (
            subscriber(broker.address) as record,
            connect(broker.address, identifier="labd-x") as connection,
            asyncio.timeout(10),
        ):
            for seq in range(1500):
                payload = b'{"seq": %d, "x": "%s"}' % (seq, b"x" * 4000)
                await connection.deliver("labd/v1/h/events", payload)
            await until(lambda: len(record.seqs) == 1500)
    finally:
        sleepy.kill()
        await asyncio.wait_for(sleepy.wait(), 60)


_DAEMON = """
import asyncio, sys
from pathlib import Path
from labd.events.broker import ManagedBroker
async def main():
    broker = ManagedBroker(Path(sys.argv[1]))
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_it_dies_with_a_killed_daemon_and_the_next_one_starts(folder: Path) -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DAEMON, str(folder / "broker"), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    child = identity.identify(int(await daemon.stdout.readline()))
    assert child is not None
    daemon.kill()
    await daemon.wait()
    await asyncio.wait_for(identity.watch_exit(child), 3)
    async with running_broker(folder) as broker:
        assert broker.pid != child.pid


async def test_a_stale_broker_is_ended_by_its_recorded_identity(folder: Path) -> None:
    first = ManagedBroker(folder / "broker")
    await first.start()
    assert first.pid is not None
    stale = identity.identify(first.pid)
    assert stale is not None
    async with running_broker(folder) as second:
        assert not identity.is_alive(stale)
        assert second.pid != stale.pid
    await first.stop()
