"""A Debian machine with cloud-init, booted once, as `dev-box` ships it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.system.harness import TEMPLATES, Daemon, until

pytestmark = pytest.mark.usefixtures("built_debian")

BOX = "dev-box/box"


def inside(daemon: Daemon, command: str, user: str = "ada") -> str:
    """Run a command on the machine by ssh, as a user."""
    done = daemon.run("ssh", f"{user}@{BOX}", command, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_debian_machine_is_what_its_template_says(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("debian")
    image = daemon.json("image", "show", "debian")
    assert (image["format"], image["files"]) == ("qcow2", ["disk", "kernel", "initrd"])
    assert image["cloud_init"] is True
    daemon.lab("up", str(TEMPLATES / "dev-box.yaml"), "--set", "user=ada", timeout=900)
    # The lab's own key lets in the user that the template makes, and root.
    assert inside(daemon, "id -un; hostname") == "ada\nbox"
    assert inside(daemon, "sudo id -un") == "root"
    assert inside(daemon, "hostname", "root") == "box"
    # The system's own rsync, by the configuration that is written for ssh.
    config, tree = tmp_path / "ssh.conf", tmp_path / "tree"
    daemon.lab("ssh-config", "dev-box", "-o", str(config))
    tree.mkdir()
    (tree / "one").write_text("1\n")
    words = ["rsync", "-a", "-e", f"ssh -F {config}", f"{tree}/", "box.dev-box.lab:/root/tree/"]
    subprocess.run(words, check=True, timeout=90)
    assert inside(daemon, "cat /root/tree/one", "root") == "1"
    # The network is as the template says it.
    card = json.loads(inside(daemon, "ip -j addr show eth0"))[0]
    addresses = [f"{item['local']}/{item['prefixlen']}" for item in card["addr_info"]]
    assert "10.30.0.10/24" in addresses
    assert "via 10.30.0.1" in inside(daemon, "ip route show default")
    assert "10.30.0.1" in inside(daemon, "resolvectl dns eth0")
    assert inside(daemon, "getent hosts box.lab").split()[0] == "10.30.0.10"
    # Its disk has grown to what the template says.
    size = int(inside(daemon, "df --output=size -B1 / | tail -n 1"))
    assert 7 << 30 < size < 8 << 30
    # cloud-init found nothing wrong.
    assert "status: done" in inside(daemon, "cloud-init status", "root")
    assert "Valid" in inside(daemon, "cloud-init schema --system 2>&1", "root")
    # The site that user-data sets up, from the host.
    published = daemon.json("status", "dev-box")["published"]
    port = next(item["host_port"] for item in published if item["port"] == 8000)

    def site() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError as error:
            return str(error)

    until(lambda: site() == "It works, ada.\n", site, 60)
    # A copy lets in the same user by its own key, and nobody by that of the first.
    daemon.lab("checkpoint", "save", "dev-box", "mine")
    daemon.lab("fork", "mine", "copy")
    done = daemon.run("ssh", "ada@copy/box", "hostname", timeout=90)
    assert done.stdout == "box\n", done.stderr
    daemon.lab("destroy", "copy")
    daemon.lab("checkpoint", "rm", "mine")
    # An orderly stop: the guest agent, or the power button.
    assert inside(daemon, "systemctl is-active qemu-guest-agent") == "active"
    daemon.lab("stop", BOX)
    assert daemon.nodes("dev-box")["box"]["reason"] == "the guest powered off"
