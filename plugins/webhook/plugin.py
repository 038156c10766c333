"""webhook: POSTs chosen events to a URL as CloudEvents JSON, in order, with retries and signed.

The header `X-Labd-Signature: sha256=HEX` is the HMAC-SHA256 of the body under the shared secret. An
event is delivered at least once: the receiver should know events by their `id`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import urllib.error
import urllib.request
from http.client import HTTPException

from labd.plugin import Client, Event, Plugin

log = logging.getLogger("webhook")
plugin = Plugin()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The settings say where events go, and nobody else does."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def signature(body: bytes, secret: str) -> str:
    """Return the value of `X-Labd-Signature`."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, secret: str, timeout: float) -> None:
    """Send one event; `timeout` in seconds.

    Raises:
        OSError, HTTPException: It was not taken.
    """
    headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "labd-webhook"}
    if secret:
        headers["X-Labd-Signature"] = signature(body, secret)
    # The manifest lets http and https URLs pass only.
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310
    with _opener.open(request, timeout=timeout):
        pass


@plugin.on("*")
async def told(event: Event, lab: Client) -> None:
    """Send an event that was chosen."""
    del lab
    settings = plugin.settings
    patterns = settings["events"]
    if not isinstance(patterns, list) or not any(event.matches(str(p)) for p in patterns):
        return
    body = json.dumps(dict(event.record), separators=(",", ":")).encode()
    url, secret = str(settings["url"]), str(settings["secret"])
    timeout, retries = float(str(settings["timeout"])), int(str(settings["retries"]))
    delay = 1.0
    for attempt in range(retries + 1):
        try:
            await asyncio.to_thread(post, url, body, secret, timeout)
        except (OSError, HTTPException) as error:
            log.warning("event %d was not taken by %s: %s", event.seq, url, error)
            if attempt == retries:
                log.warning("event %d is given up after %d tries", event.seq, retries + 1)
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, 60.0)
        else:
            return


if __name__ == "__main__":
    plugin.run()
