"""Generated requests over the OpenAPI document: no fault, and every answer as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from labd.api import create_app
from tests.unit.api_server import TOKENS, Server, api_server
from tests.unit.fake_engine import FakeEngine, FakeTemplates

Operation = schemathesis.schemas.APIOperation[Any, Any, Any, Any]
Case = schemathesis.Case[Any]
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


SETTINGS = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with api_server() as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=server.socket)
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=10) as made:
        yield made


def operations() -> list[Operation]:
    app = create_app(
        FakeEngine(), FakeTemplates(), version="0", tokens=TOKENS.get, admin_socket=Path("/none")
    )
    document = schemathesis.openapi.from_dict(app.openapi())
    return [cast("Any", result).ok() for result in document.get_all_operations()]


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_a_route_takes_whatever_comes(operation: Operation, http: httpx.Client) -> None:
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @SETTINGS
    def valid(case: Case) -> None:
        send(case, http)

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @SETTINGS
    def invalid(case: Case) -> None:
        send(case, http)

    valid()
    if operation.body or operation.query or operation.path_parameters:
        invalid()


def send(case: Case, http: httpx.Client) -> None:
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
        return  # no client can send it
    case.validate_response(response, checks=CHECKS)
