"""Downloads from a real HTTP server that cuts, lies, redirects and forgets."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labd.drivers.storage.local.images import ImageStore
from labd.images.download import Download, check_url
from labd.model.errors import DownloadFailed, ImageRefused, InputError
from labd.model.images import ImageFormat
from labd.model.units import MIB

DATA = bytes(range(256)) * (2 * MIB // 256)
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Behaviour:
    """How the server answers, and what it was asked."""

    data: bytes = DATA
    etag: str = '"v1"'
    ranges: bool = True
    cut_after: int | None = None  # bytes of a body, then the connection is closed
    chunked: bool = False
    claimed: int | None = None  # a Content-Length that is wrong
    status: int = 200
    location: str = ""
    content_range: str = ""
    stall: threading.Event | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `behaviour.data` under each path."""

    behaviour: Behaviour
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer as the behaviour says."""
        how = self.behaviour
        wanted = self.headers.get("Range", "")
        how.asked.append((self.path, wanted))
        self.close_connection = True
        if how.location:
            self.send_response(302)
            self.send_header("Location", how.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if how.status != 200:
            self.send_error(how.status)
            return
        start = 0
        if wanted and how.ranges and self.headers.get("If-Range") == how.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = how.data[start:]
        self.send_response(206 if start else 200)
        if start:
            told = f"bytes {start}-{len(how.data) - 1}/{len(how.data)}"
            self.send_header("Content-Range", how.content_range or told)
        if how.etag:
            self.send_header("ETag", how.etag)
        self._send(body)

    def _send(self, body: bytes) -> None:
        how = self.behaviour
        if how.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(body))
        else:
            self.send_header("Content-Length", str(how.claimed or len(body)))
            self.end_headers()
        self.wfile.write(body if how.cut_after is None else body[: how.cut_after])
        if how.stall is not None:
            how.stall.wait(10)
        if how.chunked and how.cut_after is None:
            self.wfile.write(b"\r\n0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    handler = type("Bound", (Handler,), {"behaviour": behaviour})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}", behaviour
    finally:
        if behaviour.stall is not None:
            behaviour.stall.set()
        listening.shutdown()
        thread.join()
        listening.server_close()


def nothing(done: int, total: int | None) -> None:
    """Take progress and forget it."""


def _left(root: Path) -> list[str]:
    return sorted(path.suffix for path in root.rglob("*") if path.is_file())


async def test_a_whole_file_with_progress(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, _ = server
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    told: list[tuple[int, int | None]] = []
    image = await store.download(
        "x",
        f"{url}/disk.img?key=1",
        format=None,
        sha256=SHA256.upper(),
        progress=lambda done, total: told.append((done, total)),
    )
    assert image.digest == f"sha256:{SHA256}"
    assert (image.format, image.size) == (ImageFormat.RAW, len(DATA))
    assert image.source == f"{url}/disk.img"
    assert told[0] == (0, len(DATA))
    assert told[-1] == (len(DATA), len(DATA))
    assert store.files(image)["disk"].read_bytes() == DATA
    assert _left(tmp_path / "cache") == []


async def test_a_cut_connection_is_resumed(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    how.cut_after = 700_000
    with pytest.raises(DownloadFailed) as caught:
        await store.download("x", f"{url}/a", format=None, progress=nothing)
    assert caught.value.message == (
        f"cannot fetch {url}/a: the connection was cut after 700000 of {len(DATA)} bytes; "
        "try again, and what has come is used"
    )
    assert _left(tmp_path) == [".json", ".part"]
    how.cut_after = None
    told: list[int] = []
    image = await store.download(
        "x", f"{url}/a", format=None, sha256=SHA256, progress=lambda done, _: told.append(done)
    )
    assert how.asked[-1] == ("/a", "bytes=700000-")
    assert told[0] == 700_000
    assert store.files(image)["disk"].read_bytes() == DATA


async def test_a_changed_file_is_begun_anew(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.cut_after = 500_000
    with pytest.raises(DownloadFailed):
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    how.cut_after, how.etag, how.data = None, '"v2"', DATA[::-1]
    path = await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize("etag", ['"v1"', "", 'W/"weak"'])
async def test_without_ranges_or_validator_it_is_begun_anew(
    tmp_path: Path, server: tuple[str, Behaviour], etag: str
) -> None:
    url, how = server
    how.cut_after, how.ranges, how.etag = 500_000, False, etag
    with pytest.raises(DownloadFailed):
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    how.cut_after = None
    path = await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert path.read_bytes() == DATA
    assert bool(how.asked[-1][1]) == (etag == '"v1"')


async def test_a_wrong_part_is_not_taken(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.cut_after = 500_000
    with pytest.raises(DownloadFailed):
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    how.cut_after, how.content_range = None, "bytes 5-9/10"
    with pytest.raises(DownloadFailed) as caught:
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert "sent another part of the file than was asked for" in caught.value.message
    assert _left(tmp_path) == []


async def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, _ = server
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    with pytest.raises(ImageRefused) as caught:
        await store.download("x", f"{url}/a", format=None, sha256="0" * 64, progress=nothing)
    assert caught.value.message == (
        f"the digest is sha256:{SHA256}, not sha256:{'0' * 64} as asked for; the file is damaged "
        "or another one: check the source"
    )
    assert _left(tmp_path) == []


async def test_a_bad_image_leaves_nothing(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.data = b"<html>not here</html>"
    store = ImageStore(tmp_path / "state", tmp_path / "cache")
    with pytest.raises(ImageRefused, match="a web page or XML text"):
        await store.download("x", f"{url}/a", format=None, progress=nothing)
    assert _left(tmp_path) == []


async def test_length_may_be_unknown_but_an_end_must_be_told(
    tmp_path: Path, server: tuple[str, Behaviour]
) -> None:
    url, how = server
    how.chunked = True
    path = await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert path.read_bytes() == DATA
    how.cut_after = 1000
    with pytest.raises(DownloadFailed, match="the connection failed after 0 bytes"):
        await Download(f"{url}/b", tmp_path).fetch(nothing)


async def test_a_longer_length_than_the_body(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.claimed = len(DATA) + 5
    with pytest.raises(DownloadFailed, match=f"cut after {len(DATA)} of {len(DATA) + 5} bytes"):
        await Download(f"{url}/a", tmp_path).fetch(nothing)


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large(tmp_path: Path, server: tuple[str, Behaviour], chunked: bool) -> None:
    url, how = server
    how.chunked = chunked
    with pytest.raises(ImageRefused, match="the limit of this host"):
        await Download(f"{url}/a", tmp_path, max_size=MIB).fetch(nothing)
    assert _left(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 500])
async def test_an_error_of_the_server(
    tmp_path: Path, server: tuple[str, Behaviour], status: int
) -> None:
    url, how = server
    how.status = status
    with pytest.raises(DownloadFailed, match=f"the server said {status} "):
        await Download(f"{url}/a", tmp_path).fetch(nothing)


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://127.0.0.1/x", "gopher://x/"])
async def test_a_redirect_out_of_http_is_refused(
    tmp_path: Path, server: tuple[str, Behaviour], target: str
) -> None:
    url, how = server
    how.location = target
    with pytest.raises((InputError, DownloadFailed)):
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert _left(tmp_path) == []


async def test_redirects_without_end(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.location = f"{url}/again"
    with pytest.raises(DownloadFailed, match="infinite loop"):
        await Download(f"{url}/a", tmp_path).fetch(nothing)
    assert len(how.asked) <= 7


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="no connection: .*refused"):
        await Download("http://127.0.0.1:1/a", tmp_path).fetch(nothing)


async def test_a_silent_server_is_left(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.cut_after, how.stall = 1000, threading.Event()
    with pytest.raises(DownloadFailed, match="the connection failed after"):
        await Download(f"{url}/a", tmp_path, timeout=0.2).fetch(nothing)


async def test_cancelled_keeps_what_has_come(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, how = server
    how.cut_after, how.stall = 600_000, threading.Event()
    begun = asyncio.Event()

    def note(done: int, total: int | None) -> None:
        assert total == len(DATA)
        if done:
            begun.set()

    task = asyncio.create_task(Download(f"{url}/a", tmp_path, timeout=5).fetch(note))
    async with asyncio.timeout(60):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _left(tmp_path) == [".json", ".part"]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/shadow",
        "ftp://host/x",
        "/etc/shadow",
        "http://",
        "http:///x",
        "https://host:99999/x",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "data:,x",
        "",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        check_url(url)
    assert caught.value.message.endswith("write an address that begins with http:// or https://")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    shown = Download("https://me:secret@host:8/a.img?token=1#x", tmp_path).shown
    assert shown == "https://host:8/a.img"
