"""The template that a verb was given: a file, `-` for stdin, or the name of a shipped one."""

from __future__ import annotations

import os
import sys

from labd.model.errors import InputError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.cli.session import Session

_LIMIT = 512 * 1024  # bytes; what the API takes


def read_template(session: Session, source: str) -> tuple[str, str]:
    """Return the text of a template, and the file name for messages.

    Raises:
        InputError: There is no such file and no such shipped template, or it cannot be read.
    """
    if source == "-":
        return _decode(sys.stdin.buffer.read(_LIMIT + 1), "stdin"), "stdin"
    if os.path.isfile(source):
        try:
            with open(source, "rb") as file:
                return _decode(file.read(_LIMIT + 1), source), source
        except OSError as error:
            raise InputError(f"cannot read {source}: {error.strerror}") from error
    if os.path.exists(source):
        raise InputError(f"{source} is not a regular file; give the path of a lab template")
    if "/" in source or source.endswith((".yaml", ".yml")):
        raise InputError(f"there is no file {source}; give the path of a lab template")
    try:
        found = session.client.template(source)
    except (NotFound, InputError) as error:
        raise InputError(
            f"there is no file {source[:200]} and no shipped template of that name; "
            "`lab template ls` lists them"
        ) from error
    return found["text"], found["file"]


def _decode(data: bytes, source: str) -> str:
    if len(data) > _LIMIT:
        raise InputError(f"{source} is larger than {_LIMIT >> 10} KiB: that is no lab template")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
