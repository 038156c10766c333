"""Real guests reached from outside their labs: ssh, scp, forwards, SOCKS and published ports."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import Daemon

pytestmark = pytest.mark.usefixtures("built_tiny")

TEMPLATE = """
name: copy
parameters: {mark: {type: string, default: none}}
networks: {lan: {subnet: 10.9.0.0/24}}
nodes:
  web:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: 10.9.0.2/24}}
    commands: [[sh, -c, "echo ${mark} > /tmp/mark"]]
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def write(path: Path, text: str = TEMPLATE) -> str:
    path.write_text(text)
    return str(path)


def ssh(config: Path, host: str, *command: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", str(config), "-o", "BatchMode=yes", host, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_copies_with_one_address_are_each_reached_by_ssh(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    file, labs = write(tmp_path / "copy.yaml"), [f"copy-{n}" for n in range(1, 5)]
    with ThreadPoolExecutor(2) as pool:
        ups = [
            pool.submit(daemon.lab, "up", file, "--name", lab, "--set", f"mark={lab}")
            for lab in labs
        ]
        for up in ups:
            up.result()
    assert {daemon.nodes(lab)["web"]["addresses"][0] for lab in labs} == {"10.9.0.2/24"}

    def marker(lab: str) -> str:
        return daemon.lab("ssh", f"{lab}/web", "cat", "/tmp/mark").strip()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(marker, labs)) == labs

    config = tmp_path / "ssh.conf"
    daemon.lab("ssh-config", "-o", str(config))
    for lab in labs[:2]:
        done = ssh(config, f"web.{lab}.lab", "cat /tmp/mark; echo oops >&2; exit 7")
        assert (done.stdout.strip(), done.stderr.strip(), done.returncode) == (lab, "oops", 7)
    keys = [daemon.root / "lib/keys" / daemon.json("status", lab)["key"] for lab in labs]
    assert len({(key / "id_ed25519.pub").read_text() for key in keys}) == 4
    assert keys[0].stat().st_mode & 0o777 == 0o700

    daemon.lab("destroy", labs[0], "--force")
    assert not keys[0].exists()
    # Made anew it has another key, and the same configuration still reaches it.
    daemon.lab("up", file, "--name", labs[0], "--set", "mark=again")
    assert ssh(config, f"web.{labs[0]}.lab", "cat /tmp/mark").stdout.strip() == "again"
