"""The last line that a guest showed, whatever its terminal was told besides."""

from __future__ import annotations

import pytest

from labd.core.failure_context import last_line


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (b"", ""),
        (b"\r\n \r\n\x07\x1b[2J", ""),
        (b"one\ntwo\r\n\r\n", "two"),
        (b"half a li", "half a li"),
        (b"\x1b[1;31mpanic\x1b[0m: \x1b]0;title\x07no init\r\n", "panic: no init"),
        (b"10 %\r20 %\r30 %", "30 %"),
        (b"caf\xc3\xa9 \xff\n", "café \N{REPLACEMENT CHARACTER}"),
        (b"x" * 500, "x" * 160 + "…"),
    ],
)
def test_the_last_line(log: bytes, line: str) -> None:
    assert last_line(log) == line
