"""The exercise `broken-network`: each fault is there, and mended as its page says."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.system.harness import TEMPLATES, Daemon

pytestmark = pytest.mark.usefixtures("built_tiny")

WEB = "10.50.2.10"
# What is asked of the PC for each objective but the second.
ASKED = [
    "ping -c 1 -W 2 10.50.2.1",
    "",
    f"ping -c 1 -W 2 {WEB}",
    f"nc -w 3 {WEB} 80 </dev/null 2>&1 | grep refused",
    f"timeout 5 wget -q -O - http://{WEB}/ | grep 'it works'",
    "timeout 5 wget -q -O - http://web/ | grep 'it works'",
]


def inside(daemon: Daemon, node: str, command: str) -> str:
    words = ("exec", "-n", f"broken-network/{node}", "--", "sh", "-c", command)
    return daemon.lab(*words)


def reached(daemon: Daemon, number: int) -> bool:
    """Tell whether an objective is reached, by the page's count from 1."""
    if number == 2:  # the router's own counter tells whether it passes packets on
        inside(daemon, "pc", f"ping -c 1 -W 1 {WEB}; true")
        lines = inside(daemon, "router", "cat /proc/net/snmp").splitlines()[:2]
        names, values = (line.split() for line in lines)
        return int(dict(zip(names, values, strict=True))["ForwDatagrams"]) > 0
    said = inside(daemon, "pc", f"({ASKED[number - 1]}) >/dev/null 2>&1 && echo yes || echo no")
    return said == "yes\n"


def test_each_fault_is_found_and_mended(daemon: Daemon) -> None:
    daemon.image()
    page = (TEMPLATES / "broken-network.md").read_text()
    text = page[page.index("## The faults") :]
    cures = re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]
    assert len(cures) == len(ASKED)
    daemon.lab("up", str(TEMPLATES / "broken-network.yaml"))
    for number, cure in enumerate(cures, 1):
        assert not reached(daemon, number), f"fault {number} is not there"
        for line in re.findall(r"^ +lab (.*)$", cure, re.MULTILINE):
            words = shlex.split(line)
            daemon.lab(words[0], "-n", *words[1:])
        assert reached(daemon, number), f"the page's cure of fault {number} does not help"
