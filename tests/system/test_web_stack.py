"""The exercise `web-stack`, done as its page says."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import Counter

import pytest

from tests.system.harness import TEMPLATES, Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")


def page(port: int) -> str:
    """Ask the site from the host, as a browser would; return what it says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        return f"error: {error}"


def servers(port: int, times: int) -> Counter[str]:
    """Return how often each web server answered."""
    return Counter(page(port).partition(":")[0] for _ in range(times))


def visits(port: int) -> int:
    """Return the number of the visit that this is."""
    said = page(port)
    found = re.search(r"visit (\d+)$", said.strip())
    assert found is not None, said
    return int(found[1])


def test_both_servers_answer_through_the_balancer(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", str(TEMPLATES / "web-stack.yaml"))
    port = int(daemon.json("status", "web-stack")["published"][0]["host_port"])
    until(lambda: len(servers(port, 4)) == 2, lambda: page(port), 30)
    # 1: in turn, and one count for both.
    assert servers(port, 10) == {"web-1": 5, "web-2": 5}
    first = visits(port)
    assert [visits(port) for _ in range(4)] == [first + 1, first + 2, first + 3, first + 4]
    # 2: one server fails, and the site does not.
    daemon.lab("stop", "web-stack/web-1", "--force")
    until(lambda: servers(port, 4) == {"web-2": 4}, lambda: page(port), 30)
    # 3: it comes back.
    daemon.lab("start", "web-stack/web-1")
    until(lambda: len(servers(port, 4)) == 2, lambda: page(port), 30)
    # 4: the data outlives the database's machine.
    last = visits(port)
    daemon.lab("restart", "web-stack/db")
    assert visits(port) == last + 1
    # 5: without it, the site says what is wrong.
    daemon.lab("stop", "web-stack/db")
    assert "503" in page(port)
