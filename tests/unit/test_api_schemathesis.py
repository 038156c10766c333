"""Generated requests over the OpenAPI document: no fault, and every answer as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from schemathesis import GenerationMode

from tests.openapi import Case, Operation, examples, operations, send
from tests.unit.api_server import Server, api_server, openapi


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with api_server() as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=server.socket)
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=120) as made:
        yield made


def documented() -> list[Operation]:
    return operations(openapi())


@pytest.mark.parametrize("operation", documented(), ids=lambda operation: operation.label)
def test_a_route_takes_whatever_comes(operation: Operation, http: httpx.Client) -> None:
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @examples(20)
    def valid(case: Case) -> None:
        send(case, http)

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @examples(20)
    def invalid(case: Case) -> None:
        send(case, http)

    valid()
    if operation.body or operation.query or operation.path_parameters:
        invalid()
