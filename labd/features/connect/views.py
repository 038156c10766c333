"""What the API may ask about ways into labs; `features.connect.service`."""

from __future__ import annotations

import socket
from typing import Protocol

from labd.model.access import KeyPair
from labd.model.names import NodeRef

TIMEOUT = 10.0  # seconds for a connection to be accepted


class ConnectApi(Protocol):
    """Connections into labs, and the keys to their guests."""

    async def to_node(self, ref: NodeRef, port: int, timeout: float = TIMEOUT) -> socket.socket:
        """Connect to a TCP port of a node from inside its lab; the caller closes the socket.

        Raises:
            InputError: No such port number, or the node has no address.
            IllegalTransition: The node does not run.
            NetworkFailed: Nobody listens there, or nobody answers.
        """

    async def to_host(
        self, lab: str, host: str, port: int, timeout: float = TIMEOUT
    ) -> socket.socket:
        """Connect to the name of a node, or to an address inside one of the lab's subnets.

        Raises:
            InputError, NotFound: There is no such place in the lab.
            NetworkFailed: As in `to_node`.
        """

    async def key(self, lab: str) -> KeyPair:
        """Return the SSH key of a lab.

        Raises:
            NotFound: It has none yet, for it was never up.
        """
