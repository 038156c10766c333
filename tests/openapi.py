"""Generated requests over the OpenAPI document, for the engine over fakes and a whole daemon."""

from __future__ import annotations

from typing import Any, cast

import httpx
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

Operation = schemathesis.schemas.APIOperation[Any, Any, Any, Any]
Case = schemathesis.Case[Any]
_LONGEST = 1024  # characters
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def examples(count: int) -> settings:
    """Return settings for `count` examples that are the same in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def operations(document: dict[str, Any]) -> list[Operation]:
    """Return every operation of an OpenAPI document."""
    found = schemathesis.openapi.from_dict(shortened(document)).get_all_operations()
    return [cast("Any", result).ok() for result in found]


def shortened(schema: Any) -> Any:
    """Return a schema whose strings with a pattern are no longer than `_LONGEST`.

    A generator multiplies a pattern out with the bound of its length: that of an argument of a
    command, 128 KiB, costs it seconds for each case, of which none is as long.
    """
    if isinstance(schema, list):
        return [shortened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: shortened(value) for key, value in schema.items()}
    if isinstance(made.get("pattern"), str) and isinstance(made.get("maxLength"), int):
        made["maxLength"] = min(made["maxLength"], _LONGEST)
    return made


def send(case: Case, http: httpx.Client) -> int:
    """Send a case, hold the answer to the document, and return its status; 0 for unsendable ones.

    Raises:
        AssertionError: A fault of the server, or an answer that the document does not know.
    """
    query = dict(case.query or {})
    query.pop("follow", None)  # a stream does not end; test_api_client has it
    query.pop("wait", None)
    case.query = query
    words = case.as_transport_kwargs(base_url="http://localhost")
    data = words.pop("data", None)
    if isinstance(data, bytes | str):
        words["content"] = data
    words.pop("cookies", None)
    try:
        response = http.request(**words)
    except httpx.InvalidURL:
        return 0  # no client can send it
    case.validate_response(response, checks=CHECKS)
    return response.status_code
