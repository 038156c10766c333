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
DATA = "/dev/disk/by-id/virtio-data"
MORE = """\
    disks: {data: {size: 64 MiB}}
    on_fork:
      - [sh, -c, "cd /etc/ssh; rm ssh_host_*; ssh-keygen -qt ed25519 -N '' -f ssh_host_ed25519_key"]
      - [sh, -c, "systemd-id128 new > /etc/machine-id; systemctl restart ssh"]
"""
WRITER = (
    "echo $$ > /run/writer; i=0; while :; do i=$((i+1)); cp /run/all /mnt/new; "
    "mv /mnt/new /mnt/f$((i%200)); [ $((i%3)) != 0 ] || sync -f /mnt; done"
)


def inside(daemon: Daemon, command: str, user: str = "ada") -> str:
    """Run a command on the machine by ssh, as a user."""
    done = daemon.run("ssh", f"{user}@{BOX}", command, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def a_copy_is_another_machine(daemon: Daemon, tmp_path: Path) -> None:
    """Save the box while it writes all the time, and hold a copy against it."""
    shipped = (TEMPLATES / "dev-box.yaml").read_text()
    edited = tmp_path / "dev-box.yaml"
    edited.write_text(shipped.replace("    vcpus: ${vcpus}\n", "    vcpus: ${vcpus}\n" + MORE))
    daemon.lab("up", str(edited), "--set", "user=ada")  # as it runs
    root_says(daemon, "dev-box", f"mkfs.ext4 -q {DATA} && mount {DATA} /mnt && seq 3000 > /run/all")
    root_says(daemon, "dev-box", f"setsid sh -c '{WRITER}' > /dev/null 2>&1 &")
    until(lambda: int(root_says(daemon, "dev-box", "ls /mnt | wc -l")) > 5, "it writes", 60)
    who = "cat /etc/machine-id; cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub"
    first = root_says(daemon, "dev-box", who).split()
    daemon.lab("checkpoint", "save", "dev-box", "mine")
    daemon.lab("fork", "mine", "copy")
    # It lets in the same user by its own key, and nobody by that of the first.
    done = daemon.run("ssh", "ada@copy/box", "hostname", timeout=90)
    assert done.stdout == "box\n", done.stderr
    second = root_says(daemon, "copy", who).split()
    assert [len(words) for words in (first, second)] == [2, 2]
    assert not set(first) & set(second), "machine-id and host key are its own"
    assert root_says(daemon, "dev-box", who).split() == first
    # What it wrote is whole: each file, and the file system.
    whole = "for f in /mnt/f*; do cmp /run/all $f || exit 1; done; ls /mnt/f* | wc -l"
    assert int(root_says(daemon, "copy", f"kill $(cat /run/writer); sleep 0.5; {whole}")) > 0
    said = root_says(daemon, "copy", f"umount /mnt && e2fsck -fn {DATA} 2>&1")
    assert "Pass 5" in said
    root_says(daemon, "dev-box", "kill $(cat /run/writer); sleep 0.5; umount /mnt")
    assert "Pass 5" in root_says(daemon, "dev-box", f"e2fsck -fn {DATA} 2>&1"), "of the source, too"
    daemon.lab("destroy", "copy", "--force")
    daemon.lab("checkpoint", "rm", "mine")


def root_says(daemon: Daemon, lab: str, command: str) -> str:
    """Run a command by the guest agent; it must succeed."""
    return daemon.lab("exec", "-n", f"{lab}/box", "--", "sh", "-c", command)


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
    a_copy_is_another_machine(daemon, tmp_path)
    # An orderly stop: the guest agent, or the power button.
    assert inside(daemon, "systemctl is-active qemu-guest-agent") == "active"
    daemon.lab("stop", BOX)
    assert daemon.nodes("dev-box")["box"]["reason"] == "the guest powered off"
