"""The exercise `dhcp-dns`, done as its page says."""

from __future__ import annotations

import re

import pytest

from tests.system.harness import TEMPLATES, Daemon

pytestmark = pytest.mark.usefixtures("built_tiny")

SERVER = "10.30.1.254"


def test_the_exercise_has_the_solution_that_its_page_shows(daemon: Daemon) -> None:
    daemon.image()
    text = (TEMPLATES / "dhcp-dns.md").read_text()
    solution = re.findall(r"^```udhcpd\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    daemon.lab("up", str(TEMPLATES / "dhcp-dns.yaml"))
    # 1: what was told.
    show = "printf '#!/bin/sh\\nenv\\n' >/run/show; chmod +x /run/show"
    ask = f"{show}; udhcpc -i eth0 -n -q -s /run/show 2>&1; echo do''ne"
    told = daemon.console("dhcp-dns/pc", ask, r"\ndone")
    for line in ("router=10.30.1.1", f"dns={SERVER}", "domain=office.lab", "lease=3600"):
        assert f"\n{line}\n" in told
    assert re.search(r"\nip=10\.30\.1\.1\d\d\n", told)
    assert "\nntpsrv=10.30.1.10\n" in told
    told = daemon.console("dhcp-dns/web", ask, r"\ndone")
    assert "\nip=10.30.1.10\n" in told
    # 2: names.
    for name in ("web", "web.office.lab", "intranet"):
        found = daemon.console("dhcp-dns/pc", f"nslookup {name}; echo do''ne", r"\ndone")
        assert "Address: 10.30.1.10\n" in found, name
    daemon.console("dhcp-dns/pc", "nslookup 10.30.1.10", r"name = web\.office\.lab")
    daemon.console("dhcp-dns/pc", "nslookup pc", r"Address: 10\.30\.1\.1\d\d")
    daemon.console("dhcp-dns/pc", "nslookup nobody.office.lab", "NXDOMAIN")
    # 3: serve the branch.
    daemon.console("dhcp-dns/laptop", "ip -4 addr show eth0 | grep -c inet", r"^0\n")
    lines = " ".join(f"'{line}'" for line in solution.splitlines())
    serve = f"printf '%s\\n' {lines} >/etc/udhcpd.conf; touch /run/leases; udhcpd; echo end=$?"
    daemon.console("dhcp-dns/router", serve, "end=0")
    wait = "until ip route | grep -q default; do sleep 1; done; ip -4 addr show eth0"
    daemon.console("dhcp-dns/laptop", wait, r"inet 10\.30\.2\.1\d\d/24")
    # 4: across the router, by name.
    daemon.console("dhcp-dns/laptop", "nslookup web", "Address: 10.30.1.10")
    daemon.console("dhcp-dns/laptop", "ping -c 2 10.30.1.10", "[12] packets received")
    given = {
        (event["node"], event["data"]["network"], event["data"]["nic"])
        for event in daemon.events()
        if event["type"] == "io.labd.network.lease"
    }
    assert given == {("pc", "office", "eth0"), ("web", "office", "eth0")}
