"""Screens through the whole of labd: pictures, a keyboard that a guest hears, VNC viewers."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.children import running
from tests.system.harness import BIN, Daemon, until
from tests.unit.test_picture import decode

# Prints `guest: up`, then echoes what its keyboard (BIOS, int 16h) says to the serial line.
_CODE = bytes.fromhex(
    "31c08ed88ed0bc007cfcbe237c"  # registers, and where the message is
    "baf803ac84c07403eeebf8"  # print it
    "fb30e4cd16baf803eeebf5"  # sti; read a key; print its character; again
)
KEYBOARD = (_CODE + b"guest: up\r\n\0").ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)
TEMPLATE = """\
name: screens
nodes:
  kiosk: {image: keyboard, memory: 16 MiB, disk_bus: ide, display: vnc}
  old: {image: keyboard, memory: 16 MiB, disk_bus: ide, display: vnc, machine: pc}
  blind: {image: keyboard, memory: 16 MiB, disk_bus: ide}
"""


@pytest.fixture
def screens(daemon: Daemon) -> Daemon:
    """Return a daemon with a lab of two nodes with a screen and one without."""
    image, template = daemon.root / "keyboard.img", daemon.root / "screens.yaml"
    image.write_bytes(KEYBOARD)
    template.write_text(TEMPLATE)
    daemon.lab("image", "import", str(image), "--name", "keyboard", "--format", "raw")
    daemon.lab("up", str(template))
    for node in ("kiosk", "old", "blind"):
        hears(daemon, node, "up")
    return daemon


def said(daemon: Daemon, node: str) -> str:
    return daemon.lab("logs", "--raw", f"screens/{node}")


def hears(daemon: Daemon, node: str, text: str) -> None:
    until(lambda: text in said(daemon, node), f"{node} hears {text}", 15)


def picture(daemon: Daemon, node: str) -> tuple[int, int, bytes]:
    path = daemon.root / "x.png"
    daemon.lab("screenshot", f"screens/{node}", "-o", str(path))
    return decode(path.read_bytes())


def test_pictures_keys_and_viewers(screens: Daemon) -> None:
    for node in ("kiosk", "old"):
        width, height, pixels = picture(screens, node)
        assert (width, height) == (720, 400)
        colours = {pixels[at : at + 3] for at in range(0, len(pixels), 3)}
        assert len(colours) >= 2, "SeaBIOS has written something"
        text = "Hello, W0rld! ~/|<>{}"
        screens.lab("type", f"screens/{node}", text)
        hears(screens, node, text)

    # A daemon that is killed and started again has the screens still.
    pids = screens.pids("screens")
    screens.kill()
    screens.start()
    screens.lab("type", "screens/kiosk", "again")
    hears(screens, "kiosk", "again")
    assert screens.pids("screens") == pids

    words = [BIN / "lab", "--root", screens.root, "vnc", "screens/kiosk"]
    with running(words, 300, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline().decode().rpartition(":")[2])
        assert vnc_size(port) == vnc_size(port) == (720, 400)


def vnc_size(port: int) -> tuple[int, int]:
    """Do the handshake of RFC 6143 (security None) and return the size of the frame buffer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        stream = sock.makefile("rwb")
        assert stream.read(12) == b"RFB 003.008\n"
        stream.write(b"RFB 003.008\n")
        stream.flush()
        assert 1 in stream.read(stream.read(1)[0]), "security type None"
        stream.write(b"\x01")
        stream.flush()
        assert stream.read(4) == bytes(4)
        stream.write(b"\x01")  # shared
        stream.flush()
        head = stream.read(4)
        return int.from_bytes(head[:2], "big"), int.from_bytes(head[2:], "big")


def test_what_has_no_screen_or_does_not_run(screens: Daemon, tmp_path: Path) -> None:
    out = str(tmp_path / "x.png")
    no_screen = (
        "lab: node screens/blind has no screen; write `display: vnc` for it in the template, "
        "and `lab up` again\n"
    )
    assert screens.lab("screenshot", "screens/blind", "-o", out, expect=2) == no_screen
    assert screens.lab("type", "screens/blind", "x", expect=2) == no_screen
    assert screens.lab("vnc", "screens/blind", expect=2) == no_screen
    before = said(screens, "kiosk")
    assert screens.lab("type", "screens/kiosk", "ok, then ü", expect=2) == (
        "lab: character 'ü' at place 10 is not on a US keyboard; leave it out\n"
    )
    assert said(screens, "kiosk") == before
    screens.lab("pause", "screens/kiosk")
    assert picture(screens, "kiosk")[:2] == (720, 400)
    assert screens.lab("type", "screens/kiosk", "x", expect=1) == (
        "lab: cannot type to screens/kiosk: it is paused, and must be ready or running\n"
    )
    screens.lab("stop", "screens/old", "--force")
    assert "cannot take a picture of screens/old: it is stopped" in screens.lab(
        "screenshot", "screens/old", "-o", out, expect=1
    )
    assert not Path(out).exists()
