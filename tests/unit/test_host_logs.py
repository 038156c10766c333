"""The two forms of the log."""

from __future__ import annotations

import json
import logging
import sys

from labd.host.logs import JsonFormatter, TextFormatter


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "labd.engine", "levelname": "INFO", "msg": "node %s", "args": ("web/a",), **extra}
    )
    made.created = 0.0
    return made


def test_text_is_one_line_with_what_was_added() -> None:
    line = TextFormatter().format(record(operation="op-1"))
    assert line == "1970-01-01T00:00:00.000Z info    labd.engine: node web/a operation=op-1"


def test_json_is_one_object() -> None:
    entry = json.loads(JsonFormatter().format(record(operation="op-1")))
    assert entry == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "logger": "labd.engine",
        "message": "node web/a",
        "operation": "op-1",
    }


def test_an_exception_is_part_of_the_entry() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        entry = json.loads(JsonFormatter().format(record(exc_info=sys.exc_info())))
    assert "ValueError: no" in entry["exception"]
