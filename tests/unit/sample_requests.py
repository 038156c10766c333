"""A request of each kind, as labd has stored it."""

from __future__ import annotations

import json
from pathlib import Path

from labd.inventory import requests
from labd.model.requests import OperationKind, Request

GOLDEN = Path(__file__).parents[1] / "contract" / "golden"


def a_request(kind: OperationKind) -> Request:
    """Return the first request of a kind in the golden file."""
    rows = json.loads((GOLDEN / f"requests-{requests.VERSION}.json").read_text())
    text = next(json.dumps(row) for row in rows if row["kind"] == kind)
    _, request = requests.read(str(kind), text)
    assert isinstance(request, Request), request
    return request
