"""What a template has a guest do runs when the table of docs/templates.md says, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.harness import Daemon, until

pytestmark = pytest.mark.usefixtures("built_debian", "built_tiny")

SAYS = '[sh, -c, "echo {0} >> /var/log/when"]'
TEMPLATE = f"""\
name: when
nodes:
  big:
    image: debian
    memory: 512 MiB
    cloud_init:
      user_data:
        bootcmd: [{SAYS.format("bootcmd")}]
        runcmd: [{SAYS.format("runcmd")}]
    commands: [{SAYS.format("commands")}]
    files: {{/root/file: {{content: file}}}}
    startup: [[sh, -c, "echo startup with $(cat /root/file) >> /var/log/when; rm /root/file"]]
    on_fork: [{SAYS.format("on_fork")}]
  small:
    image: tiny
    memory: 128 MiB
    commands: [{SAYS.format("commands")}]
    files: {{/root/file: {{content: file}}}}
    startup: [[sh, -c, "echo startup with $(cat /root/file) >> /var/log/when; rm /root/file"]]
    on_fork: [{SAYS.format("on_fork")}]
"""
FIRST = ["bootcmd", "runcmd", "commands", "startup with file"]
AGAIN = ["bootcmd", "startup with file"]
EACH = ["commands", "startup with file"]  # the image tiny begins anew at each boot


def said(daemon: Daemon, node: str) -> list[str]:
    return daemon.lab("exec", "-n", node, "--", "cat", "/var/log/when").splitlines()


def test_each_runs_when_the_table_says(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("debian")
    daemon.image("tiny")
    file = tmp_path / "when.yaml"
    file.write_text(TEMPLATE)
    daemon.lab("up", str(file), timeout=900)
    big = FIRST
    assert (said(daemon, "when/big"), said(daemon, "when/small")) == (big, EACH)
    daemon.lab("down", "when")
    daemon.lab("start", "when", timeout=900)
    big = [*big, *AGAIN]
    assert (said(daemon, "when/big"), said(daemon, "when/small")) == (big, EACH)
    # A guest that reboots itself is no start of labd's, and is told all the same.
    daemon.lab(
        "exec", "-n", "when/big", "--", "systemd-run", "--on-active=1", "systemctl", "reboot"
    )
    until(lambda: daemon.states("when")["big"] == "running", "it reboots", 120)
    daemon.lab("wait", "when/big", "--for", "ready", "--timeout", "600", timeout=700)
    big = [*big, *AGAIN]
    assert said(daemon, "when/big") == big
    # What cloud-init is told is another now, so it does its work of a first boot once more.
    edited = SAYS.format("edited")
    file.write_text(TEMPLATE.replace(f"runcmd: [{SAYS.format('runcmd')}]", f"runcmd: [{edited}]"))
    daemon.lab("exec", "-n", "when/big", "--", "sync")  # the power goes at once
    daemon.lab("up", str(file), "--force", timeout=900)
    anew = ["bootcmd", "edited", "commands", "startup with file"]
    big = [*big, *anew]
    assert said(daemon, "when/big") == big
    # A copy does not boot.
    daemon.lab("checkpoint", "save", "when", "saved")
    daemon.lab("fork", "saved", "copy")
    assert said(daemon, "copy/big") == [*big, "on_fork"]
    assert said(daemon, "copy/small") == [*EACH, "on_fork"]
    assert said(daemon, "when/big") == big
    # Taken back, it begins once more from where it was saved.
    daemon.lab("reset", "copy")
    assert said(daemon, "copy/big") == [*big, "on_fork"]
    daemon.lab("checkpoint", "restore", "when", "saved")
    assert said(daemon, "when/big") == [*big, "on_fork"]
    # A copy is another machine, as cloud-init finds out when it boots.
    daemon.lab("exec", "-n", "copy/big", "--", "sync")
    daemon.lab("restart", "copy/big", "--force", timeout=900)
    assert said(daemon, "copy/big") == [*big, "on_fork", *anew]
    daemon.lab("destroy", "copy", "when", "--force")
    daemon.lab("checkpoint", "rm", "saved")
