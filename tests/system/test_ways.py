"""Real guests reached from outside their labs: ssh, scp, forwards, SOCKS and published ports."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from websockets.sync.client import unix_connect

from labd.client import Client
from tests.children import running as alongside
from tests.system.harness import BIN, Daemon

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
    commands:
      - [sh, -c, "mkdir /tmp/www; echo ${mark} | tee /tmp/mark > /tmp/www/mark"]
      - [httpd, -h, /tmp/www]
      - [sh, -c, "nc -ll -p 7 -e md5sum >/dev/null 2>&1 &"]
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def write(path: Path, text: str = TEMPLATE) -> str:
    path.write_text(text)
    return str(path)


def ssh(config: Path, host: str, *command: str) -> subprocess.CompletedProcess[str]:
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

    with alongside(
        ["ssh", "-F", config, f"web.{labs[0]}.lab", "cat /tmp/mark; sleep 1000"],
        300,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as session:
        assert session.stdout is not None
        assert session.stdout.readline().decode().strip() == labs[0]
        daemon.lab("destroy", labs[0], "--force")
        assert session.wait(60) == 255, "who holds a connection is not left in the dark"
    assert not keys[0].exists()
    # Made anew it has another key, and the same configuration still reaches it.
    daemon.lab("up", file, "--name", labs[0], "--set", "mark=again")
    assert ssh(config, f"web.{labs[0]}.lab", "cat /tmp/mark").stdout.strip() == "again"


def test_plain_scp_goes_through_the_written_configuration(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"))
    config, data = tmp_path / "ssh.conf", tmp_path / "data"
    daemon.lab("ssh-config", "copy", "-o", str(config))
    data.write_bytes(os.urandom(1_000_000))

    def scp(source: str, target: str) -> None:
        subprocess.run(["scp", "-q", "-F", str(config), source, target], check=True, timeout=60)

    scp(str(data), "web.copy.lab:/dev/shm/data")
    scp("web.copy.lab:/dev/shm/data", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data.read_bytes()
    assert ssh(config, "web.other.lab", "true").returncode == 255, "of this lab only"

    # Ansible's own way: the host of its inventory, and the words of ansible_ssh_common_args.
    daemon.lab("inventory", "copy", "--ansible", "-o", str(tmp_path / "hosts.yaml"))
    everything = json.loads((tmp_path / "hosts.yaml").read_text())["all"]
    assert everything["children"]["image_tiny"] == {"hosts": {"web": {}}}
    words = shlex.split(everything["vars"]["ansible_ssh_common_args"])
    target = f"{everything['vars']['ansible_user']}@{everything['hosts']['web']['ansible_host']}"
    done = subprocess.run(
        ["ssh", "-F", "none", *words, target, "hostname"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "web\n"


@contextmanager
def running(daemon: Daemon, *args: str) -> Iterator[Callable[[], str]]:
    """Run a `lab` verb that stays, and give what reads a line of what it prints."""
    words = [BIN / "lab", "--root", daemon.root, *args]
    with alongside(words, 300, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        out = child.stdout
        yield lambda: str(out.readline().strip())


def said_by(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        return line.recv(100)


def exchange(port: int, data: bytes) -> bytes:
    """Send, say that this is all, and return the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := line.recv(4096):
            said += chunk
    return said


def test_forwards_lead_to_ports_and_each_way_ends_by_itself(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"))
    with running(daemon, "forward", "copy/web", "0:22", "127.0.0.1:0:7", "0:9") as lines:
        ports = [int(lines().split(" -> ")[0].rpartition(":")[2]) for _ in range(3)]
        assert said_by(ports[0]).startswith(b"SSH-2.0-dropbear")
        busy = daemon.lab("forward", "copy/web", f"{ports[0]}:22", expect=2)
        assert busy == (
            f"lab: port 127.0.0.1:{ports[0]} is in use; choose another one, or 0 to have one "
            "chosen\n"
        )
        # md5sum answers only when it has heard the end of what it is sent.
        data = os.urandom(2_000_000)
        assert exchange(ports[1], data) == f"{hashlib.md5(data).hexdigest()}  -\n".encode()
        with pytest.raises(ConnectionResetError):
            said_by(ports[2])
    assert daemon.lab("forward", "copy/none", "0:22", expect=4) == (
        f"lab: there is no node copy/none; known: {', '.join(sorted(daemon.nodes('copy')))}\n"
    )


def test_a_proxy_knows_the_names_of_the_lab(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"), "--set", "mark=hello")
    with running(daemon, "proxy", "copy", "--port", "0") as lines:
        url = lines()
        assert url.startswith("socks5h://127.0.0.1:")

        def fetch(host: str, *more: str) -> tuple[int, str]:
            done = subprocess.run(
                ["curl", "-s", "--max-time", "20", "--proxy", url, *more, f"http://{host}/mark"],
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stdout

        for host in ("web", "web.lab", "web.copy", "10.9.0.2"):
            assert fetch(host) == (0, "hello\n"), host
        refused = {host: fetch(host)[0] for host in ("nobody", "192.0.2.1", "web:81")}
        assert set(refused.values()) == {97}, "curl: the proxy said no"


def test_published_ports_stay_over_restarts_and_end_with_the_lab(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.image()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        wrong = write(tmp_path / "wrong.yaml", TEMPLATE + f'    publish: ["0:22", "{busy}:80"]\n')
        told = daemon.lab("up", wrong, expect=2)
        assert told == (
            f"lab: node web: publish 127.0.0.1:{busy}:80: port 127.0.0.1:{busy} of the host is in "
            "use; choose another one, or 0 to have one chosen\n"
        )
        assert daemon.json("ls")["labs"] == []
        assert daemon.listeners() == []
    told = daemon.lab(
        "up", write(tmp_path / "copy.yaml", TEMPLATE + f'    publish: ["0:22", "{busy}:80"]\n')
    )

    def published() -> dict[int, int]:
        found = daemon.json("status", "copy")["published"]
        return {item["port"]: item["host_port"] for item in found}

    before = published()
    assert before[80] == busy
    assert f"127.0.0.1:{before[22]} leads to port 22 of copy/web\n" in told
    assert f"127.0.0.1:{before[22]}" in daemon.lab("status", "copy")
    assert said_by(before[22]).startswith(b"SSH-2.0-dropbear")
    daemon.kill()
    with pytest.raises(ConnectionRefusedError):
        said_by(before[22])
    daemon.start()
    assert published() == before
    assert said_by(before[22]).startswith(b"SSH-2.0-dropbear")
    seq = daemon.json("version")["daemon"]["last_seq"]
    assert daemon.stop() == 0
    with socket.create_server(("127.0.0.1", before[22])), socket.create_server(("", busy)):
        daemon.start()
        after = published()
        assert after[22] != before[22], "another one is chosen"
        assert 80 not in after, "and a fixed one is given up"
    news = {event["type"]: event["data"] for event in daemon.events(seq) if "node" in event}
    assert news["io.labd.node.published"]["host_port"] == after[22]
    assert "is in use" in news["io.labd.node.unpublished"]["reason"]
    pid = daemon.pids("copy")["web"]
    daemon.lab("up", str(tmp_path / "copy.yaml"))
    assert published() == {22: after[22], 80: busy}
    daemon.lab("up", write(tmp_path / "copy.yaml", TEMPLATE + '    publish: ["0:7"]\n'))
    assert set(published()) == {7}
    assert daemon.pids("copy")["web"] == pid, "the node runs on"
    assert len(daemon.listeners()) == 1
    daemon.lab("down", "copy", "--force")
    assert daemon.listeners() == []
    assert published() == {}
    daemon.lab("start", "copy")
    assert set(published()) == {7}
    daemon.lab("destroy", "copy", "--force")
    assert daemon.listeners() == []


def test_administrators_keys_open_every_node(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    key = tmp_path / "anna"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    daemon = make_daemon(f'[daemon]\naccel = "tcg"\n[access]\nauthorized_keys = ["{public}"]\n')
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml", TEMPLATE + '    publish: ["0:22"]\n'))
    port = daemon.json("status", "copy")["published"][0]["host_port"]
    words = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

    def login(*more: str) -> int:
        return subprocess.run(
            ["ssh", "-F", "none", "-q", "-o", "BatchMode=yes", *words, *more, "true"],
            check=False,
            timeout=60,
        ).returncode

    to = ["-p", str(port), "root@127.0.0.1"]
    assert login("-i", str(key), *to) == 0
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    assert login("-i", str(stranger), *to) == 255


def test_a_websocket_carries_much_and_ends_each_way_by_itself(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"))
    data = os.urandom(8_000_000)
    with unix_connect(
        str(daemon.root / "run/api.sock"),
        "ws://localhost/v1/labs/copy/nodes/web/connect?port=7",
        compression=None,
        proxy=None,
    ) as ws:
        for at in range(0, len(data), 1 << 16):
            ws.send(data[at : at + (1 << 16)])
        ws.send(b"")
        assert ws.recv(60) == f"{hashlib.md5(data).hexdigest()}  -\n".encode()
        assert ws.recv(60) == b""


def test_ways_are_for_the_same_people_as_the_api(daemon: Daemon) -> None:
    api, ways = ((daemon.root / "run" / name).stat() for name in ("api.sock", "connect.sock"))
    assert ways.st_mode & 0o777 == 0o660
    assert (api.st_mode, api.st_uid, api.st_gid) == (ways.st_mode, ways.st_uid, ways.st_gid)


def test_connect_is_a_pipe_and_says_why_not(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"))
    data = "hello\n" * 100_000
    done = daemon.run("connect", "copy/web", "7", text=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{hashlib.md5(data.encode()).hexdigest()}  -\n"
    assert daemon.lab("connect", "web.copy.lab", "9", expect=1) == (
        "lab: cannot reach copy/web: 10.9.0.2:9: connection refused\n"
    )
    record = [
        (event["data"]["actor"], event["lab"], event["data"]["object"], event["data"]["status"])
        for event in daemon.events()
        if event["data"].get("action", "").startswith("attach_")
    ]
    assert record == [
        ("user root", "copy", "lab copy/web", 101),
        ("user root", "copy", "lab copy/web", 500),
    ]
    way = Client(str(daemon.root / "run/api.sock")).connect.to_node("copy", "web", 7)
    with way:
        way.settimeout(60)
        daemon.kill()
        daemon.start()
        way.sendall(b"hello")
        way.shutdown(socket.SHUT_WR)
        told = way.recv(100)
    assert told == f"{hashlib.md5(b'hello').hexdigest()}  -\n".encode(), "labd is not in between"
    daemon.lab("stop", "copy/web", "--force")
    stopped = "lab: cannot reach copy/web: it is stopped, and must be running or ready\n"
    assert daemon.lab("connect", "copy/web", "7", expect=1) == stopped
    assert daemon.lab("ssh", "copy/web", "true", expect=255) == stopped
    daemon.lab("start", "copy/web")
    denied = daemon.lab("ssh", "-o", "BatchMode=yes", "nobody@copy/web", "true", expect=255)
    assert denied.endswith("Permission denied (publickey).\n"), "root alone has the lab's key"


def test_a_shell_has_a_terminal(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    daemon.lab("up", write(tmp_path / "copy.yaml"))
    shell = pexpect.spawn(
        str(BIN / "lab"), ["--root", str(daemon.root), "ssh", "copy/web"], timeout=30
    )
    try:
        shell.expect(r"web:~# ")
        shell.sendline("tty; stty size")
        shell.expect(r"/dev/pts/\d+")
        shell.expect(r"24 80")
        shell.sendline("exit 3")
        shell.expect(pexpect.EOF)
    finally:
        shell.close()
    assert shell.exitstatus == 3
