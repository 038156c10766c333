"""Generated requests against a whole daemon with a lab that runs: no fault, and nothing leaks."""

from __future__ import annotations

from collections import Counter

import httpx
from hypothesis import given
from schemathesis import GenerationMode

from tests.openapi import Case, Operation, examples, operations, send
from tests.system.harness import TEMPLATES, Daemon

# What is there, so that generated requests reach more than "there is no such thing".
_THERE = {
    "lab": "target",
    "node": "boot",
    "image": "bootsector",
    "profile": "small",
    "plugin": "recorder",
    "template": "hello",
}
# Nothing listens there: a test sends no traffic to hosts that a generator thought of.
_NOWHERE = "http://127.0.0.1:9/image.raw"


def aim(case: Case, *, hit: bool) -> None:
    """Point a case at what is there, and keep its URLs on this host."""
    if hit and case.path_parameters:
        names = {key: value for key, value in _THERE.items() if key in case.path_parameters}
        case.path_parameters.update(names)
    if isinstance(case.body, dict) and "url" in case.body:
        case.body["url"] = _NOWHERE


def reaches(operation: Operation) -> bool:
    """Tell whether an operation may be tried: building an image fetches packages."""
    return not operation.label.endswith("/image-builds")


def test_a_daemon_takes_whatever_comes(daemon: Daemon) -> None:
    daemon.image("bootsector")
    template = str(TEMPLATES / "bootsector.yaml")
    daemon.lab("up", template, "--name", "target", "--set", "accel=tcg")
    daemon.lab("profile", "add", "small", "--image", "bootsector")
    transport = httpx.HTTPTransport(uds=str(daemon.root / "run" / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=120) as http:
        document = http.get("/openapi.json").json()
        tried = [operation for operation in operations(document) if reaches(operation)]
        assert len(tried) > 25
        answers = Counter(status for operation in tried for status in try_it(operation, http))
    # Most are wrong on purpose; many must have got through to the world behind the routes.
    assert sum(count for status, count in answers.items() if 200 <= status < 300) > 60, answers
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log.read_text()


def try_it(operation: Operation, http: httpx.Client) -> list[int]:
    """Send right and wrong requests of one operation, at what is there and at what is not."""
    statuses: list[int] = []
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        if mode is GenerationMode.NEGATIVE and not (
            operation.body or operation.query or operation.path_parameters
        ):
            continue
        for hit in (True, False):
            statuses += run(operation, mode, http, hit=hit)
    return statuses


def run(operation: Operation, mode: GenerationMode, http: httpx.Client, *, hit: bool) -> list[int]:
    """Send some generated requests of one kind; return the statuses."""
    statuses: list[int] = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @examples(4)
    def each(case: Case) -> None:
        aim(case, hit=hit)
        statuses.append(send(case, http))

    each()
    return statuses
