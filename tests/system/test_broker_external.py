"""A broker that labd does not manage: mosquitto with TLS and a password, by URL."""

from __future__ import annotations

import asyncio
import pwd
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labd.events.accounts import password_line
from labd.events.mqtt import BrokerAddress, MqttError, connect
from labd.inventory import SqliteInventory
from tests.system.brokers import emit, publishing, short_folder, subscriber, until

_ACL = "user labd\ntopic readwrite labd/#\nuser reader\ntopic read labd/#\n"
_CONFIG = """\
per_listener_settings false
allow_anonymous false
password_file passwd
acl_file acl
log_dest none
max_inflight_messages 3
listener {port} 127.0.0.1
cafile ca.pem
certfile server.pem
keyfile server.key
"""


@dataclass(frozen=True)
class External:
    """A broker with TLS.

    Attributes:
        port: On 127.0.0.1.
        ca: The authority that signed its certificate for `localhost`.
        other_ca: One that did not.
    """

    port: int
    ca: Path
    other_ca: Path


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """Make two authorities, and a certificate of the first for `localhost`."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other"):
        openssl(
            folder, "req", "-x509", *curve, "-days", "2", "-subj", f"/CN=labd test {name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    openssl(
        folder, "req", *curve, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-keyout", "server.key", "-out", "server.csr",
    )  # fmt: skip
    (folder / "san").write_text("subjectAltName=DNS:localhost")
    openssl(
        folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "san", "-out", "server.pem",
    )  # fmt: skip


def free_port() -> int:
    """Return a port that the kernel gave out just now, so no neighbour tries the same one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def start(folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start mosquitto on a free port; another one when somebody was quicker."""
    for _ in range(5):
        port = free_port()
        (folder / "mosquitto.conf").write_text(_CONFIG.format(port=port))
        process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", "mosquitto.conf", cwd=folder
        )
        for _ in range(200):
            await asyncio.sleep(0.01)
            if process.returncode is not None:
                break
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                continue
            writer.close()
            await writer.wait_closed()
            return process, port
    raise AssertionError("mosquitto did not start")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that mosquitto may read: it drops root by itself here."""
    with short_folder() as path:
        yield path


@pytest.fixture
async def external(folder: Path) -> AsyncIterator[External]:
    """Yield a broker with TLS, users and an ACL."""
    make_certificates(folder)
    (folder / "passwd").write_text(password_line("labd", "s3cret") + password_line("reader", "r"))
    (folder / "acl").write_text(_ACL)
    entry = pwd.getpwnam("mosquitto")
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, entry.pw_uid, entry.pw_gid)
    process, port = await start(folder)
    try:
        yield External(port=port, ca=folder / "ca.pem", other_ca=folder / "other.pem")
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), 60)


async def test_events_go_out_over_tls_in_order_within_the_brokers_window(
    external: External, tmp_path: Path
) -> None:
    url = f"mqtts://localhost:{external.port}"
    address = BrokerAddress.parse(url, username="labd", password="s3cret", ca_file=external.ca)
    inventory = await SqliteInventory.open(tmp_path / "state.db")
    async with subscriber(address) as record, publishing(inventory, address) as publisher:
        await emit(inventory, 200)
        assert await publisher.flush(10)
        await until(lambda: record.seqs[-1:] == [200])
        assert record.seqs == list(range(1, 201))
    async with connect(address, identifier="looks") as connection:
        assert connection.receive_maximum == 3
    await inventory.close()


async def test_a_certificate_of_another_authority_is_refused(external: External) -> None:
    url = f"mqtts://labd:s3cret@localhost:{external.port}"
    for address in (BrokerAddress.parse(url, ca_file=external.other_ca), BrokerAddress.parse(url)):
        with pytest.raises(MqttError, match="certificate verify failed"):
            async with connect(address, identifier="x"):
                pass


async def test_a_certificate_for_another_name_is_refused(external: External) -> None:
    url = f"mqtts://labd:s3cret@127.0.0.1:{external.port}"
    with pytest.raises(MqttError, match="IP address mismatch"):
        async with connect(BrokerAddress.parse(url, ca_file=external.ca), identifier="x"):
            pass


async def test_a_ca_file_that_is_not_there_is_told(external: External) -> None:
    url = f"mqtts://labd:s3cret@localhost:{external.port}"
    address = BrokerAddress.parse(url, ca_file=Path("/nonexistent/ca.pem"))
    with pytest.raises(MqttError, match="No such file"):
        async with connect(address, identifier="x"):
            pass


async def test_an_account_that_may_not_publish_is_told_and_nothing_counts_as_published(
    external: External, tmp_path: Path
) -> None:
    url = f"mqtts://reader:r@localhost:{external.port}"
    address = BrokerAddress.parse(url, ca_file=external.ca)
    inventory = await SqliteInventory.open(tmp_path / "state.db")
    async with publishing(inventory, address) as publisher:
        await emit(inventory, 3)
        await until(lambda: "Not authorized" in publisher.problem)
    assert await inventory.published_seq() == 0
    await inventory.close()
