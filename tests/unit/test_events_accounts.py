"""Broker addresses, and mosquitto's files as text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labd.events.accounts import BrokerUser, acl_text, password_line
from labd.events.mqtt import BrokerAddress
from labd.model.errors import ConfigError


def test_a_hash_is_that_of_mosquitto_passwd(tmp_path: Path) -> None:
    import base64

    path = tmp_path / "passwd"
    path.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(path), "labd", "pässword"], check=True)
    theirs = path.read_text()
    salt = base64.b64decode(theirs.split("$")[3])
    assert password_line("labd", "pässword", salt) == theirs


def test_hashes_of_one_password_differ() -> None:
    assert password_line("a", "x") != password_line("a", "x")


def test_the_acl_lets_only_labd_write() -> None:
    users = [BrokerUser(name="webhook", password="x", reads=("labd/v1/h/lab/web/#", "labd/v1/h/s"))]
    assert acl_text(users).splitlines() == [
        "user labd",
        "topic readwrite labd/#",
        "",
        "user labd-probe",
        "",
        "user webhook",
        "topic read labd/v1/h/lab/web/#",
        "topic read labd/v1/h/s",
    ]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress(host="localhost")),
        ("mqtt://localhost:1900/", BrokerAddress(host="localhost", port=1900)),
        ("mqtts://[::1]", BrokerAddress(host="::1", port=8883, tls=True)),
        (
            "mqtts://u%40x:p%2Fw@h:1",
            BrokerAddress(host="h", port=1, tls=True, username="u@x", password="p/w"),
        ),
        ("mqtt+unix:///run/x/mqtt.sock", BrokerAddress(socket=Path("/run/x/mqtt.sock"))),
    ],
)
def test_an_address_is_read_from_its_url(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.parse(url) == address


def test_credentials_beside_the_url_come_first_and_are_never_shown() -> None:
    address = BrokerAddress.parse(
        "mqtts://a:hidden@h", username="b", password="hidden too", ca_file=Path("/ca")
    )
    assert (address.username, address.password) == ("b", "hidden too")
    assert address.url == "mqtts://h:8883"
    assert "hidden" not in repr(address)
    assert BrokerAddress.parse(address.url).host == "h"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost",
        "mqtt://",
        "mqtt://:pw@",
        "mqtt://h:99999",
        "mqtt://h:x",
        "mqtt://h/topic",
        "mqtt://h?x=1",
        "mqtt+unix://run/x",
        "mqtt://[::1",
    ],
)
def test_a_url_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="write it like mqtt://HOST:1883") as caught:
        BrokerAddress.parse(url)
    assert "pw" not in str(caught.value)
