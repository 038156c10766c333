"""Addresses of MQTT 5 brokers, and connections to them.

    async with connect(BrokerAddress.parse("mqtt://127.0.0.1:1883"), identifier="me") as connection:
        await connection.subscribe("labd/v1/+/lab/#", qos=1)
        async for message in connection.messages:
            ...

There is no reconnect here: who uses a connection knows what has to be done again. `MqttError` is
what all failures of a connection are.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Self
from urllib.parse import unquote, urlsplit

import aiomqtt
from aiomqtt import Message, MqttError, Will
from paho.mqtt.client import CleanStartOption, ConnectFlags
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from labd.model.errors import ConfigError

__all__ = ["BrokerAddress", "Connection", "Message", "MqttError", "Will", "connect", "properties"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_RECEIVE_MAXIMUM = 65_535  # MQTT 5, 3.2.2.3.3: what a broker allows that says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker is, and as whom to come.

    Attributes:
        host: Name or address; empty with `socket`.
        port: TCP port; not used with `socket`.
        socket: Path of its unix socket, or None.
        username: Empty for none.
        password: Never shown.
        tls: Talk TLS, and check the broker's certificate and name.
        ca_file: PEM file of the authorities to trust; None: the system's.
    """

    host: str = ""
    port: int = 1883
    socket: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: Path | None = None

    @classmethod
    def parse(
        cls, url: str, *, username: str = "", password: str = "", ca_file: Path | None = None
    ) -> BrokerAddress:
        """Read `mqtt://HOST[:PORT]`, `mqtts://HOST[:PORT]` or `mqtt+unix:///PATH`.

        A user and password inside the URL count when none are given beside it.

        Raises:
            ConfigError: It is none of these; the message never has the password.
        """
        advice = "write it like mqtt://HOST:1883, mqtts://HOST:8883 or mqtt+unix:///PATH"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"the broker's URL is not valid ({error}): {advice}") from error
        username = username or unquote(parts.username or "")
        password = password or unquote(parts.password or "")
        if parts.scheme == "mqtt+unix" and parts.path and not parts.netloc:
            return cls(socket=Path(unquote(parts.path)), username=username, password=password)
        extra = parts.path not in {"", "/"} or parts.query or parts.fragment
        if parts.scheme not in _PORTS or not parts.hostname or extra:
            raise ConfigError(f"the broker's URL is not valid: {advice}")
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            username=username,
            password=password,
            tls=parts.scheme == "mqtts",
            ca_file=ca_file,
        )

    @property
    def url(self) -> str:
        """The address without the credentials, as `parse` reads it."""
        if self.socket is not None:
            return f"mqtt+unix://{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


class Connection(aiomqtt.Client):
    """An aiomqtt client with its loose ends tied; made by `connect`.

    Attributes:
        receive_maximum: Unacknowledged QoS 1 messages that the broker takes at one time (MQTT 5,
            3.2.2.3.3); known once connected. Who publishes keeps to it.
        refused: Why the broker refused the last publish that it refused; empty when it never did.
            aiomqtt takes a negative PUBACK (an ACL denial) for a good one.
    """

    receive_maximum: int = _RECEIVE_MAXIMUM
    refused: str = ""

    async def __aenter__(self) -> Self:
        # paho forgets to close a socket that finds nobody or that TLS refuses, at each reconnect.
        vars(self._client)["_create_unix_socket_connection"] = self._open_unix
        vars(self._client)["_ssl_wrap_socket"] = self._wrap_tls
        try:
            return await super().__aenter__()
        except BaseException as error:
            # aiomqtt leaves the socket and its timer in the loop when no CONNACK comes.
            self._client._sock_close()
            if isinstance(error, ValueError):  # a host name that IDNA cannot encode, and the like
                raise MqttError(f"there is no such host: {error}") from error
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        # The connection may be broken, or the broker so slow that it does not take a DISCONNECT:
        # either way it is over, and the reason why the block was left is the one to tell.
        try:
            with suppress(MqttError):
                await super().__aexit__(None, None, None)
        finally:
            self._client._sock_close()
            if self._disconnected.done() and not self._disconnected.cancelled():
                self._disconnected.exception()  # told already, or of no interest

    def _open_unix(self) -> socket.socket:
        """Connect to the unix socket; in a thread. A full backlog counts as nobody after 5 s."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(self._client.connect_timeout)
            opened.connect(self._hostname)
        except BaseException:
            opened.close()
            raise
        return opened

    def _wrap_tls(self, plain: socket.socket) -> ssl.SSLSocket:
        """Do the TLS handshake; in a thread. The context checks the certificate and the name."""
        context = self._client._ssl_context
        if context is None or not context.check_hostname:
            plain.close()
            raise MqttError("TLS without a check of the broker's name is not done")
        wrapped = context.wrap_socket(
            plain, server_hostname=self._hostname, do_handshake_on_connect=False
        )
        try:
            wrapped.settimeout(self._client.connect_timeout)
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    async def deliver(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> None:
        """Publish with QoS 1, and return when the broker has acknowledged it.

        There is no deadline: when the broker dies this waits for ever, so run it beside `lost`.

        Raises:
            MqttError: The broker refused it, or there is no connection.
        """
        await self.publish(
            topic, payload, qos=1, retain=retain, properties=properties, timeout=math.inf
        )
        if self.refused:
            raise MqttError(f"the broker refused a message: {self.refused}; see its ACL")

    async def lost(self) -> NoReturn:
        """Wait until the connection is lost; for connections that subscribe to nothing.

        Raises:
            MqttError: It is lost.
        """
        async for _ in self.messages:
            pass
        raise MqttError("the connection was closed")

    def _on_connect(
        self,
        client: PahoClient,
        userdata: Any,  # noqa: ANN401 - as in aiomqtt
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if properties is not None:
            self.receive_maximum = getattr(properties, "ReceiveMaximum", _RECEIVE_MAXIMUM)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self,
        client: PahoClient,
        userdata: Any,  # noqa: ANN401 - as in aiomqtt
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        if reason_code.is_failure:
            self.refused = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)


def properties(kind: Literal["PUBLISH", "WILLMESSAGE"], content_type: str) -> Properties:
    """Return MQTT 5 properties with a content type."""
    made = Properties(getattr(PacketTypes, kind))
    made.ContentType = content_type
    return made


def connect(
    address: BrokerAddress,
    *,
    identifier: str,
    will: Will | None = None,
    clean: bool = True,
    session_expiry: int = 0,
    keepalive: int = 10,
    timeout: float = 5.0,
) -> Connection:
    """Return a connection to enter with `async with`, MQTT 5; must be called in the loop.

    Args:
        address: Where, and as whom.
        identifier: Client id; a second connection with the same id ends the first.
        will: What the broker publishes when this goes without a word.
        clean: Forget an earlier session of this client id.
        session_expiry: Seconds that the broker keeps the session after the connection.
        keepalive: Seconds; a silent broker is noticed after one to two of them.
        timeout: Seconds for the answers to CONNECT and SUBSCRIBE.

    Raises:
        MqttError: On entering: nobody there, bad credentials, bad certificate.
    """
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = session_expiry
    start: CleanStartOption = clean
    connection = Connection(
        str(address.socket) if address.socket is not None else address.host,
        address.port,
        transport="unix" if address.socket is not None else "tcp",
        username=address.username or None,
        password=address.password or None,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        will=will,
        clean_start=start,
        properties=session,
        keepalive=keepalive,
        timeout=timeout,
        tls_params=_tls(address),
        # paho does not know the broker's receive maximum: `Connection.receive_maximum` does.
        max_inflight_messages=_RECEIVE_MAXIMUM,
        # Small messages shall not wait for each other (RFC 896).
        socket_options=[]
        if address.socket is not None
        else [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    connection.pending_calls_threshold = _RECEIVE_MAXIMUM
    return connection


def _tls(address: BrokerAddress) -> aiomqtt.TLSParameters | None:
    if not address.tls:
        return None
    return aiomqtt.TLSParameters(
        ca_certs=str(address.ca_file) if address.ca_file is not None else None,
        cert_reqs=ssl.CERT_REQUIRED,
        tls_version=ssl.PROTOCOL_TLS_CLIENT,
    )


async def reachable(address: BrokerAddress, identifier: str) -> bool:
    """True if the broker lets this user in."""
    with suppress(MqttError, asyncio.TimeoutError):
        async with connect(address, identifier=identifier, timeout=2.0):
            return True
    return False
