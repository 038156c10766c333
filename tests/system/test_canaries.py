"""Nothing that a hostile disk, template, archive, name or guest names is opened: asked of strace.

The whole tree of a daemon is watched: labd itself, qemu-img, QEMU and every other child.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest

from labd.client import Client
from labd.client.types import Operation
from labd.model.errors import LabdError
from labd.model.units import MIB
from tests.hostile.disks import DISKS
from tests.hostile.guest import WRITTEN, writer
from tests.hostile.test_archives import CHECKPOINTS, linked
from tests.hostile.test_texts import BAD, BOMBS
from tests.system.harness import Daemon, cmdline, is_alive, processes, until

_CALLS = ("open", "openat", "openat2", "creat")
# -y: also the path to which a link has led.
_STRACE = ("strace", "-f", "-y", "--seccomp-bpf", "-e", f"trace=execve,{','.join(_CALLS)}")
_OPENS = re.compile(rf"\d+ +(?:<\.\.\. )?(?:{'|'.join(_CALLS)})\b")
# All that these need of the host's programs: no shell above all.
_PROGRAMS = {"labd", "mosquitto", "nft", "qemu-img", "qemu-system-x86_64"}
_JAILERS = {"nsenter", "prlimit", "setpriv", "unshare"}
# Templates that would have labd, or a tool of its, look at a file of the host.
_TEMPLATES = (
    "name: x\nnodes: {{a: {{image: {}}}}}\n",
    "name: x\nnodes: {{a: {{image: 'bootsector,file={}'}}}}\n",
    "name: x\nnodes: {{a: {{profile: {}}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, cdrom: {}}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, machine: 'pc,kernel={}'}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, firmware: {}}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, disks: {{d: {{size: 1 MiB, file: {}}}}}}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, disks: {{'d,file={}': {{size: 1 MiB}}}}}}}}\n",
    "name: x\nnodes: {{a: {{image: bootsector, files: {{/x: {{source: {}}}}}}}}}\n",
    "name: x\nnodes: {{a: !include {}}}\n",
    "include: {}\nname: x\nnodes: {{a: {{image: bootsector}}}}\n",
    "name: x\nnodes: {{'a,romfile={}': {{image: bootsector}}}}\n",
    'name: x\nnodes: {{"a\\n{}": {{image: bootsector}}}}\n',
    "name: x\nnetworks: {{lan: {{uplink: 'bridge:{}'}}}}\nnodes: {{a: {{image: bootsector}}}}\n",
)
_LAB = """name: trap
nodes:
  file: {image: file, machine: pc, disk_bus: ide, memory: 16 MiB}
  json: {image: json, machine: pc, disk_bus: ide, memory: 16 MiB}
"""


@dataclass(frozen=True)
class Canary:
    """A file that everybody may read, and where strace writes what is opened."""

    path: str
    trace: Path

    def names(self) -> dict[str, str]:
        """Return node -> what the header that its guest writes has as its backing file."""
        inner = {"driver": "raw", "file": {"driver": "file", "filename": self.path}}
        return {"file": self.path, "json": f"json:{json.dumps(inner)}"}


@pytest.fixture
def canary() -> Iterator[Canary]:
    with tempfile.TemporaryDirectory(prefix="labd-c-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "canary"
        path.write_bytes(b"the canary's song".ljust(MIB, b"\0"))
        path.chmod(0o644)
        yield Canary(str(path), folder / "trace")


def opened(trace: Path) -> str:
    """Return the lines of a trace that tell of a file that was opened, or was tried to be."""
    lines = trace.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if _OPENS.match(line))


def executed(trace: Path) -> set[str]:
    """Return the names of the programs that were executed."""
    found = re.findall(r'^\d+ +execve\("([^"]*)"', trace.read_text(errors="replace"), re.MULTILINE)
    return {Path(path).name for path in found}


def watched(daemon: Daemon, trace: Path) -> None:
    """Start a daemon under strace, which is no parent of it, so that signals reach labd."""
    daemon.inside = [*_STRACE, "-D", "-o", str(trace), "--"]
    daemon.start()
    daemon.inside = []


def said(work: Callable[..., object], *args: object, **more: object) -> str:
    """Return why labd refuses something, empty when it takes it."""
    try:
        work(*args, **more)
    except LabdError as error:
        return error.message
    return ""


def feed(client: Client, canary: str) -> None:
    """Send everything hostile by the API, all of which is refused for what it is."""
    for disk in DISKS:
        data, more = BytesIO(disk.make(canary)), {"format": disk.format} if disk.format else {}
        message = said(client.upload_image, "x", [data], **more)
        assert message.startswith(disk.says.partition("…")[0]), disk.name
        if not disk.says:
            assert not message
            client.remove_image("x")
    templates = [text.format(canary) for text in _TEMPLATES]
    for text in [*templates, *(bomb for bomb, _ in BOMBS.values())]:
        assert said(client.up, "x", text), text[:200]
    for archive, says in CHECKPOINTS.values():
        assert said(client.checkpoints.receive, "x", BytesIO(archive)).startswith(says)
    for archive in linked(canary):
        assert "exported checkpoint" in said(client.checkpoints.receive, "x", BytesIO(archive))
    for name in (*BAD, canary, f"x,file={canary}", f"../../..{canary}"):
        for place in ("labs/{}", "images/{}", "profiles/{}", "checkpoints/{}", "labs/x/nodes/{}"):
            target = f"/v1/{place.format(quote(name, safe=''))}"
            assert said(client.transport.raw, "GET", target), target


def done(client: Client, *operations: Operation) -> None:
    """Wait until operations have succeeded."""
    for operation in operations:
        client.check_operation(client.wait_operation(operation["id"], 120))


def flat(daemon: Daemon, node: str, to: Path) -> bytes:
    """Write what the guest has on its disk, as it has it; return how it begins."""
    key = daemon.nodes("trap")[node]["key"]
    (disk,) = (daemon.root / "lib/nodes" / key).glob("*.qcow2")
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", disk, to], check=True)
    return to.read_bytes()[:4]


def test_no_process_of_the_daemon_opens_what_is_named_by_an_attacker(
    make_daemon: Callable[..., Daemon], canary: Canary, tmp_path: Path
) -> None:
    daemon = make_daemon(start=False)
    daemon.forked = False
    watched(daemon, canary.trace)
    daemon.image("bootsector")
    with daemon.client() as client:
        client.template("bootsector")
        feed(client, canary.path)
        for image, backing in canary.names().items():
            client.upload_image(image, [BytesIO(writer(backing))], format="raw")
        template = tmp_path / "trap.yaml"
        template.write_text(_LAB)
        daemon.lab("up", str(template))
        for node in canary.names():
            until(
                lambda node=node: WRITTEN.encode() in client.node_log("trap", node),  # type: ignore[misc]
                f"{node} has made a qcow2 of its disk",
            )
        daemon.lab("down", "trap", "--force")
        flats = {node: tmp_path / node for node in canary.names()}
        for node, path in flats.items():
            assert flat(daemon, node, path) == b"QFI\xfb"
        daemon.lab("start", "trap")
        done(client, client.checkpoints.save("trap", "saved"))
        done(client, *client.checkpoints.fork("saved", "copy"))
        for lab in ("trap", "copy"):
            daemon.lab("destroy", lab, "--force")
    assert daemon.stop() == 0
    tracers = [pid for pid in processes() if cmdline(pid).endswith(f"{daemon.root}\0".encode())]
    until(lambda: not any(map(is_alive, tracers)), "strace has written everything down")
    seen = opened(canary.trace)
    for secret in (canary.path, "/etc/shadow", "id_rsa"):
        assert secret not in seen
    # It has looked: at labd, at qemu-img, which is given the path of a descriptor, and at QEMU.
    assert "/lab-templates/bootsector.yaml" in seen
    assert re.search(r'"/proc/self/fd/\d+", .*</\S*/images/\.partial/\S*/disk>', seen)
    assert "/seabios/bios-256k.bin" in seen
    assert _PROGRAMS <= executed(canary.trace) <= _PROGRAMS | _JAILERS
    # And what the guests have written is a trap for whoever looks what it is.
    for node, path in flats.items():
        probe = ["qemu-img", "convert", "-O", "raw", str(path), str(tmp_path / "out")]
        trace = tmp_path / f"{node}.trace"
        subprocess.run([*_STRACE, "-o", str(trace), "--", *probe], check=True)
        assert canary.path in opened(trace)
    daemon.forked = True  # the one that the fixture starts to look for leaks
