"""Ports of this host that a verb listens at: `lab forward`, `lab proxy`."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading

from labd.model.errors import InputError
from labd.model.publish import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Handler = Callable[[socket.socket], None]


def listen(address: str, port: int) -> socket.socket:
    """Listen at a TCP port; 0 lets the kernel choose one.

    Raises:
        InputError: It cannot be had; says why.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        where = endpoint(address, port)
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {where} is in use; choose another one, or 0 to have one chosen"
            ) from error
        reason = os.strerror(error.errno or 0).lower()
        raise InputError(f"port {where} cannot be had: {reason}") from error
    return listener


def serve(listeners: Sequence[tuple[socket.socket, Handler]]) -> None:
    """Accept until interrupted; each connection is handled in a thread of its own."""
    with selectors.DefaultSelector() as selector:
        for listener, handler in listeners:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ, (listener, handler))
        while True:
            for key, _ in selector.select():
                listener, handler = key.data
                try:
                    caller, _ = listener.accept()
                except OSError:  # it has gone already
                    continue
                caller.setblocking(True)
                threading.Thread(target=handler, args=(caller,), daemon=True).start()
