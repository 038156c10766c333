"""TCP connections out of a lab's namespace to its nodes (`drivers.network.port.Dialer`)."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket

from labd.drivers.network.linux import netns
from labd.model.errors import NetworkFailed
from labd.model.publish import endpoint

# A guest that was powered off says no good-bye. Without these a connection to it would stay for
# ever, and keep its lab's namespace, which lives as long as any socket in it (tcp(7); seconds). A
# paused guest is as silent, hence twenty minutes. Where the kernel can, connections end with their
# lab (`sockets.end_connections`).
_KEEP_ALIVE = {socket.TCP_KEEPIDLE: 600, socket.TCP_KEEPINTVL: 60, socket.TCP_KEEPCNT: 10}


class NamespaceDialer:
    """Opens connections from inside of namespaces."""

    async def dial(self, namespace: str, address: str, port: int, timeout: float) -> socket.socket:
        """Return a connected, non-blocking socket; see the port."""
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET

        def make() -> socket.socket:
            # A socket stays in the namespace in which it was made, whoever holds it.
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE.items():
                made.setsockopt(socket.IPPROTO_TCP, option, value)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made

        channel = await netns.inside(namespace, make)
        where = endpoint(address, port)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(channel, (address, port))
        except TimeoutError:
            channel.close()
            raise NetworkFailed(
                f"{where}: no answer within {timeout:g} s", errno=errno.ETIMEDOUT, timed_out=True
            ) from None
        except OSError as error:
            channel.close()
            number = error.errno or 0
            raise NetworkFailed(
                f"{where}: {os.strerror(number).lower()}",
                errno=number,
                timed_out=number == errno.ETIMEDOUT,
            ) from error
        except BaseException:
            channel.close()
            raise
        return channel
