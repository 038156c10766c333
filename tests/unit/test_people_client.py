"""The client with a token: by TLS over TCP, and by the socket for people."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labd.api.server import serving_tcp
from labd.cli.main import run
from labd.client import Client
from labd.client.places import socket_of
from labd.host.config_people import ApiConfig
from labd.host.listening import Endpoint
from labd.model.errors import ConfigError, DaemonUnreachable, Forbidden, InputError
from labd.model.people import Role
from tests.fakes.templates import WEB
from tests.unit.api_server import Server, api_server

TLS = Path(__file__).parent / "tls"  # of nobody: made for these tests
CERTIFICATE, KEY = TLS / "certificate.pem", TLS / "key.pem"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass(frozen=True)
class Far:
    """A server over TLS, and a token of an administrator and of a student of lab web."""

    server: Server
    url: str
    chief: str
    pupil: str


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    endpoint = Endpoint(host="127.0.0.1", port=free_port())
    api = ApiConfig(listen=endpoint, certificate=CERTIFICATE, key=KEY)
    with api_server(api) as server:
        with Client(server.socket) as root:
            root.wait_operation(root.up("web", WEB)["id"])
        create = server.engine.access.create
        chief = server.run(create("chief", Role.ADMINISTRATOR, (), None))
        pupil = server.run(create("pupil", Role.STUDENT, ("web",), None))
        yield Far(server, f"https://{endpoint}", chief.token, pupil.token)


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABD_CA", str(CERTIFICATE))
    monkeypatch.delenv("LABD_TOKEN", raising=False)


def test_all_that_a_client_does_goes_over_tls(far: Far) -> None:
    with Client(far.url, far.chief) as client:
        assert [lab["name"] for lab in client.labs()] == ["web"]
        assert client.tokens.caller()["role"] == "administrator"
        follow = client.follow(0)
        assert next(follow)["seq"] == 1
        follow.close()
        with client.connect.to_node("web", "a", 22) as way:
            way.settimeout(10)
            way.sendall(b"hello")
            assert way.recv(100)


def test_a_student_comes_by_the_socket_for_people(
    far: Far, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(far.server.root)
    assert socket_of(root) == far.server.socket
    monkeypatch.setenv("LABD_TOKEN", far.pupil)
    assert socket_of(root) == far.server.people_socket
    assert run(["--root", root, "whoami"]) == 0
    assert capsys.readouterr().out == "token pupil: student, for web\n"
    assert run(["--root", root, "image", "ls"]) == 1
    assert "may not do this with the role student" in capsys.readouterr().err
    assert run(["--url", far.url, "whoami", "--json"]) == 0
    assert '"student"' in capsys.readouterr().out


def test_what_is_wrong_with_the_way_is_told(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("", "labd_wrong", "é"):
        with Client(far.url, token) as client, pytest.raises((Forbidden, InputError)):
            client.labs()
    for url in ("https://", "https://x:y", "https://127.0.0.1:1/path"):
        with Client(url, far.chief) as client, pytest.raises(InputError, match="is no URL"):
            client.labs()
    with (
        Client(f"http://127.0.0.1:{free_port()}", "x") as client,
        pytest.raises(DaemonUnreachable, match="cannot be reached"),
    ):
        client.labs()
    monkeypatch.delenv("LABD_CA")
    with Client(far.url, far.chief) as client, pytest.raises(DaemonUnreachable, match="--ca"):
        client.labs()
    monkeypatch.setenv("LABD_CA", "/nowhere.pem")
    with Client(far.url, far.chief) as client, pytest.raises(InputError, match="/nowhere.pem"):
        client.labs()


@pytest.mark.parametrize(
    ("certificate", "key", "what"),
    [
        (Path("/nowhere.pem"), KEY, "certificate: /nowhere.pem cannot be read: No such file"),
        (CERTIFICATE, Path("/nowhere.key"), "key: /nowhere.key cannot be read: No such file"),
        (KEY, KEY, "are no PEM certificate with its key"),
    ],
)
async def test_files_of_tls_that_cannot_be_used_are_named(
    far: Far, certificate: Path, key: Path, what: str
) -> None:
    api = ApiConfig(listen=Endpoint(host="127.0.0.1", port=1), certificate=certificate, key=key)
    with pytest.raises(ConfigError, match=what):
        async with serving_tcp(None, api):  # type: ignore[arg-type] # it comes to no serving
            pass


async def test_an_address_that_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host, what in (
            ("127.0.0.1", f"listen: 127.0.0.1:{port} is in use by another program; stop it"),
            ("192.0.2.1", f"listen: 192.0.2.1:{port} is no address of this host"),
            ("no.such.host.invalid", "listen: no.such.host.invalid is no address of this host"),
        ):
            api = ApiConfig(listen=Endpoint(host=host, port=port))
            with pytest.raises(ConfigError, match=what):
                async with serving_tcp(None, api):  # type: ignore[arg-type] # as above
                    pass
