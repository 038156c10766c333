"""A host and an outside for tests of uplinks: two namespaces with a wire between them.

A daemon that is started in the first one has it as its host. No packet of a test leaves them.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.system.harness import until

HOST_ADDRESS: Final = "192.0.2.2"
OUTSIDE_ADDRESS: Final = "192.0.2.1"
WEB_PORT: Final = 8000

_WEB = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello {self.client_address[0]}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""


class Outside:
    """Namespaces `host` (eth0, 192.0.2.2) and `out` (eth0, 192.0.2.1), and a web server there."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.host = f"test-host-{token}"
        self.out = f"test-out-{token}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        """Make both, with the web server of the outside."""
        for name in (self.host, self.out):
            subprocess.run(["ip", "netns", "add", name], check=True)
            run(name, "ip", "link", "set", "lo", "up")
            # As most hosts have it that are no routers.
            run(name, "sysctl", "-qw", "net.ipv4.ip_forward=0")
        run(
            self.host,
            *("ip", "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", self.out),
        )
        for name, address in ((self.host, HOST_ADDRESS), (self.out, OUTSIDE_ADDRESS)):
            run(name, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            run(name, "ip", "link", "set", "eth0", "up")
        run(self.host, "ip", "route", "add", "default", "via", OUTSIDE_ADDRESS)
        self.serve(self.out, WEB_PORT)

    def serve(self, namespace: str, port: int) -> None:
        """Answer HTTP on all addresses of a namespace with the address that asked."""
        self._processes.append(
            subprocess.Popen([*inside(namespace), sys.executable, "-c", _WEB, str(port)])
        )
        until(lambda: connects(namespace, "127.0.0.1", port), "the web server answers")

    def forwarding(self, interface: str = "eth0") -> str:
        """Return whether the host forwards what comes in by an interface."""
        path = f"/proc/sys/net/ipv4/conf/{interface}/forwarding"
        return run(self.host, "cat", path).strip()

    def close(self) -> None:
        """End what was started, and remove the namespaces."""
        for process in self._processes:
            process.kill()
            process.wait(60)
        for name in (self.host, self.out):
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str) -> list[str]:
    """Return the command prefix that runs something in a namespace."""
    return ["nsenter", f"--net={Path('/run/netns') / namespace}", "--"]


def run(namespace: str, *argv: str) -> str:
    """Run a command in a namespace; return what it says."""
    done = subprocess.run([*inside(namespace), *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def connects(namespace: str, address: str, port: int, seconds: float = 1) -> bool:
    """Tell whether a TCP connection from a namespace is accepted."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), {seconds})"
    argv = [*inside(namespace), sys.executable, "-c", code]
    return subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 0
