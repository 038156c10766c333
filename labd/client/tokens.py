"""`Client.tokens`: tokens of people."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from labd.client.transport import Transport


class Tokens:
    """Requests about tokens, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[dict[str, Any]]:
        """Return what is kept of all tokens."""
        found: list[dict[str, Any]] = self._transport.json("GET", "/v1/tokens")["tokens"]
        return found

    def create(
        self, name: str, role: str, labs: Sequence[str] = (), seconds: float | None = None
    ) -> dict[str, Any]:
        """Make a token; `token` of the answer is shown this once."""
        body = {"name": name, "role": role, "labs": list(labs), "seconds": seconds}
        found: dict[str, Any] = self._transport.json("POST", "/v1/tokens", body)
        return found

    def revoke(self, name: str) -> None:
        """Make a token void."""
        self._transport.raw("DELETE", f"/v1/tokens/{quote(name, safe='')}")

    def of_class(
        self, name: str, students: Sequence[str] = (), *, renew: bool = False
    ) -> list[dict[str, Any]]:
        """Return the tokens of a class's students: `student`, `lab`, `token`, `expires`."""
        body = {"students": list(students), "renew": renew}
        target = f"/v1/classes/{quote(name, safe='')}/tokens"
        found: list[dict[str, Any]] = self._transport.json("POST", target, body)["tokens"]
        return found

    def caller(self) -> dict[str, Any]:
        """Return who the caller is here: `name`, `role`, `scopes`, `labs`."""
        found: dict[str, Any] = self._transport.json("GET", "/v1/caller")
        return found
