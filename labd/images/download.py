"""Fetch a URL into a file, resuming where an earlier try ended (RFC 9110: Range, If-Range).

The standard library does it, in a thread: a download is long and needs nothing that asyncio has.
Only http and https are spoken, also after a redirect.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Protocol

from labd.host.threads import download
from labd.model.errors import DownloadFailed, ImageRefused, InputError, StorageFailed
from labd.model.units import format_size

_CHUNK = 256 << 10
_SCHEMES = ("http", "https")
_MAX_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


class _Response(Protocol):
    """What is used of `http.client.HTTPResponse`."""

    status: int
    headers: Message

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes."""

    def close(self) -> None:
        """Close the connection."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most five, and never away from http and https."""

    max_redirections = _MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Check where the server sends us before going there."""
        try:
            check_url(newurl)
        except InputError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_url(url: str) -> urllib.parse.SplitResult:
    """Return the parts of a URL that labd may fetch.

    Raises:
        InputError: It is not http or https, or has no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urllib.parse.SplitResult("", "", "", "", "")
    if not valid or not url.isprintable() or " " in url:
        raise InputError(
            f"cannot fetch {url[:120]!r}: write an address that begins with http:// or https://"
        )
    return parts


class Download:
    """One transfer of a URL into a folder; the same URL finds what an earlier one left.

    Args:
        url: http or https.
        folder: Where the partial file and its notes are kept.
        max_size: Bytes at most; None: no limit.
        timeout: Seconds without a single byte, after which the try has failed.

    Raises:
        InputError: The URL is none that labd fetches.
    """

    def __init__(
        self, url: str, folder: Path, *, max_size: int | None = None, timeout: float = 30.0
    ) -> None:
        parts = check_url(url)
        self._url = url
        self._folder = folder
        self._max_size = max_size
        self._timeout = timeout
        key = hashlib.sha256(url.encode()).hexdigest()[:24]
        self._path = folder / f"{key}.part"
        self._notes = folder / f"{key}.json"
        self._stop = threading.Event()
        netloc = parts.netloc.rpartition("@")[2]
        self.shown = urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, "", ""))
        """The URL as it may be shown: without user, password and query."""

    async def fetch(self, progress: Callable[[int, int | None], None]) -> Path:
        """Return the path of the complete file.

        A file that an earlier try left is continued when the server says by its ETag or date that
        it is still the same, and begun anew otherwise.

        Args:
            progress: Called in the event loop with bytes so far and in all (None: not known).

        Raises:
            DownloadFailed: The partial file is kept for the next try.
            ImageRefused: It is larger than `max_size`; nothing is kept.
            StorageFailed: It cannot be written.
        """
        loop = asyncio.get_running_loop()

        def report(done: int, total: int | None) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        worker = asyncio.ensure_future(download(self._fetch, report))
        try:
            return await asyncio.shield(worker)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: tell it, and leave only when it no longer writes.
            self._stop.set()
            await asyncio.wait([worker])
            with contextlib.suppress(asyncio.CancelledError):
                worker.exception()
            raise

    def discard(self) -> None:
        """Remove what was fetched (idempotent)."""
        self._path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def _fetch(self, report: Callable[[int, int | None], None]) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._open()) as response:
                return self._take(response, report)
        except OSError as error:  # of the disk: those of the connection have become DownloadFailed
            raise StorageFailed(
                f"cannot write in {self._folder}: {error.strerror}; make room and try again"
            ) from error

    def _take(self, response: _Response, report: Callable[[int, int | None], None]) -> Path:
        start, total = self._place(response)
        if self._max_size is not None and (total or 0) > self._max_size:
            self.discard()
            raise ImageRefused(
                f"{self.shown} has {format_size(total or 0)}, the limit of this host is "
                f"{format_size(self._max_size)}; import a smaller image"
            )
        done = self._copy(response, start, total, report)
        if total is not None and done != total:
            raise self._failed(f"the connection was cut after {done} of {total} bytes")
        return self._path

    def _open(self) -> _Response:
        """Ask for the rest of the file, or for all of it; errors become DownloadFailed."""
        headers = {"User-Agent": "labd", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - check_url saw it
        have, validator = self._state()
        if have and validator:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", validator)
        opener = urllib.request.build_opener(_Redirects, urllib.request.ProxyHandler())
        try:
            response: _Response = opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                self.discard()
                return self._open()
            raise self._failed(f"the server said {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise self._failed(f"no connection: {reason}") from error
        return response

    def _state(self) -> tuple[int, str]:
        """Return the bytes that are there, and the validator they came with ('' for none)."""
        try:
            notes = json.loads(self._notes.read_text())
            return self._path.stat().st_size, str(notes["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""

    def _place(self, response: _Response) -> tuple[int, int | None]:
        """Return where the answer begins, and the length of the whole; note its validator."""
        headers = response.headers
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            found = _RANGE.match(headers.get("Content-Range", ""))
            have, _ = self._state()
            if found is None or int(found[1]) != have:
                self.discard()
                raise self._failed("the server sent another part of the file than was asked for")
            return have, None if found[3] == "*" else int(found[3])
        etag = headers.get("ETag", "")
        # A weak ETag does not promise the same bytes, RFC 9110 section 13.1.5.
        validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        self._notes.write_text(json.dumps({"validator": validator, "url": self.shown}))
        self._path.write_bytes(b"")
        length = headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None

    def _copy(
        self,
        response: _Response,
        start: int,
        total: int | None,
        report: Callable[[int, int | None], None],
    ) -> int:
        done = start
        with self._path.open("ab") as file:
            report(done, total)
            while chunk := self._read(response, done, total):
                file.write(chunk)
                done += len(chunk)
                if self._max_size is not None and done > self._max_size:
                    self.discard()
                    raise ImageRefused(
                        f"{self.shown} has more than {format_size(self._max_size)}, the limit of "
                        "this host; import a smaller image"
                    )
                report(done, total)
        return done

    def _read(self, response: _Response, done: int, total: int | None) -> bytes:
        if self._stop.is_set():
            raise self._failed("it was cancelled")
        try:
            return response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            told = f" of {total}" if total is not None else ""
            raise self._failed(f"the connection failed after {done}{told} bytes") from error

    def _failed(self, problem: str) -> DownloadFailed:
        return DownloadFailed(
            f"cannot fetch {self.shown}: {problem}; try again, and what has come is used"
        )
